"""Regularization: penalties, max-norm and dropout against overfitting."""

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
