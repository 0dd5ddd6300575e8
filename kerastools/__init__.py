"""kerastools: train deep networks in Keras 3 faster and more reliably, and serve them faster."""

import importlib
from typing import Any

from kerastools import (
    acceleration,
    calibration,
    callbacks,
    constraints,
    diagnosis,
    folding,
    initializers,
    layers,
    optimizers,
    pretraining,
    regularization,
    transfer,
)
from kerastools._core.notices import KerastoolsNotice
from kerastools._exchange.model import from_keras, to_keras

__version__ = "0.1.0"

# Imported at first use: `search` imports keras_tuner, `export` needs TensorFlow.
_LAZY = ("search", "export")

__all__ = [
    "KerastoolsNotice",
    "acceleration",
    "calibration",
    "callbacks",
    "constraints",
    "diagnosis",
    "export",
    "folding",
    "from_keras",
    "initializers",
    "layers",
    "optimizers",
    "pretraining",
    "regularization",
    "search",
    "to_keras",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
