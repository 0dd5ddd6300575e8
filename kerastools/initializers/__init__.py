"""Initializers whose fans are right for every kernel, mirroring `keras.initializers`."""

from kerastools.initializers._delta_orthogonal import DeltaOrthogonal
from kerastools.initializers._for_layer import for_layer
from kerastools.initializers._gain import gain, stability
from kerastools.initializers._gated_orthogonal import GatedOrthogonal
from kerastools.initializers._schemes import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
)
from kerastools.initializers._variance_scaling import VarianceScaling

__all__ = [
    "DeltaOrthogonal",
    "GatedOrthogonal",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "LecunNormal",
    "LecunUniform",
    "VarianceScaling",
    "for_layer",
    "gain",
    "stability",
]
