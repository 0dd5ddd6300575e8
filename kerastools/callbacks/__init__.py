"""Callbacks that schedule learning rates, hyperparameters and frozen layers."""

from kerastools.callbacks._evaluation_weights import EvaluationWeights
from kerastools.callbacks._freeze.freeze_schedule import FreezeSchedule
from kerastools.callbacks._freeze.phase import Phase, Plateau
from kerastools.callbacks._hyperparameter_scheduler import HyperparameterScheduler
from kerastools.callbacks._learning_rate_finder import LearningRateFinder
from kerastools.callbacks._one_cycle import OneCycle

__all__ = [
    "EvaluationWeights",
    "FreezeSchedule",
    "HyperparameterScheduler",
    "LearningRateFinder",
    "OneCycle",
    "Phase",
    "Plateau",
]
