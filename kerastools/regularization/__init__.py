"""Keeping a model from learning its training rows by heart."""

from kerastools.regularization._adaptive_dropout import AdaptiveDropout
from kerastools.regularization._dropout_schedule import DropoutSchedule
from kerastools.regularization._hold_constraints import HoldConstraints
from kerastools.regularization._predict_with_dropout import predict_with_dropout
from kerastools.regularization._regularize import regularize

__all__ = [
    "AdaptiveDropout",
    "DropoutSchedule",
    "HoldConstraints",
    "predict_with_dropout",
    "regularize",
]
