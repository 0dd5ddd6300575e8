"""Constraints that are right for every kernel, mirroring `keras.constraints`."""

from kerastools.constraints._for_layer import for_layer
from kerastools.constraints._max_norm import MaxNorm

__all__ = ["MaxNorm", "for_layer"]
