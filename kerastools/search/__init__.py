"""Hyperparameter search with keras-tuner: tuner, oracle, early stopping, spaces, hypermodels."""

import importlib

try:
    for _name in ("keras_tuner", "tensorboard"):
        importlib.import_module(_name)
except ImportError as error:
    raise ImportError(
        "kerastools.search needs keras-tuner and tensorboard (keras-tuner imports tensorboard in "
        "every trial and fails without it). Install both: pip install 'kerastools[search]'."
    ) from error

from kerastools.search._decorrelated_seed import decorrelated_seed
from kerastools.search._nets.conv_net import ConvNet
from kerastools.search._nets.deep_dense import DeepDense
from kerastools.search._nets.recurrent_net import RecurrentNet
from kerastools.search._oracle.oracle import OptunaOracle
from kerastools.search._population_tuner import PopulationTuner
from kerastools.search._report.report import SearchReport
from kerastools.search._reuse.mutable_hyper_model import MutableHyperModel
from kerastools.search._spaces import betas, dropout, learning_rate, momentum
from kerastools.search._successive_halving import SuccessiveHalving
from kerastools.search._tune import tune

__all__ = [
    "ConvNet",
    "DeepDense",
    "MutableHyperModel",
    "OptunaOracle",
    "PopulationTuner",
    "RecurrentNet",
    "SearchReport",
    "SuccessiveHalving",
    "betas",
    "decorrelated_seed",
    "dropout",
    "learning_rate",
    "momentum",
    "tune",
]
