"""Hyperparameter search with keras-tuner: search spaces and models to search over."""

import importlib

try:
    for _name in ("keras_tuner", "tensorboard"):
        importlib.import_module(_name)
except ImportError as error:
    raise ImportError(
        "kerastools.search needs keras-tuner and tensorboard (keras-tuner imports tensorboard in "
        "every trial and fails without it). Install both: pip install 'kerastools[search]'."
    ) from error

from kerastools.search._deep_dense import DeepDense
from kerastools.search._optuna_oracle import OptunaOracle
from kerastools.search._population_tuner import PopulationTuner
from kerastools.search._spaces import betas, dropout, learning_rate, momentum
from kerastools.search._spread_seed import spread_seed

__all__ = [
    "DeepDense",
    "OptunaOracle",
    "PopulationTuner",
    "betas",
    "dropout",
    "learning_rate",
    "momentum",
    "spread_seed",
]
