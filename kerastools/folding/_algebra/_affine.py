"""Batch normalisation in inference as z = a⊗x + b."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


class CannotFold(Exception):  # noqa: N818 - no error: the batch norm stays where it is
    """Why a batch norm stays; the message goes into the report."""


@dataclass(frozen=True)
class Affine:
    """z = scale ⊗ x + shift, in float64.

    Attributes:
        scale: a, with one axis per axis of x but the first (the batch); its sizes broadcast.
        shift: b, of the same shape.
    """

    scale: np.ndarray
    shift: np.ndarray

    def along(self, axis: int) -> "Affine":
        """Returns a and b as vectors along `axis` of x, or raises if they vary along others."""
        others = [i for i in range(self.scale.ndim) if i != axis - 1 and self.scale.shape[i] != 1]
        if others:
            raise CannotFold(
                f"works along axis {others[0] + 1}, while the layer's channels are axis {axis}"
            )
        return Affine(self.scale.reshape(-1), self.shift.reshape(-1))


def inference_affine(batch_norm: Any, rank: int) -> Affine:
    """Returns a = γ/√(σ²+ε) and b = β − aμ of a built `BatchNormalization` on inputs of `rank`."""
    axis = batch_norm.axis % rank
    if axis == 0:
        raise CannotFold("normalises along the batch axis")
    mean = to_float64(batch_norm.moving_mean)
    variance = to_float64(batch_norm.moving_variance) + batch_norm.epsilon
    if not np.all(variance > 0):
        raise CannotFold(f"moving_variance + epsilon is {variance.min():.3g}, not positive")
    gamma = to_float64(batch_norm.gamma) if batch_norm.scale else np.ones_like(mean)
    beta = to_float64(batch_norm.beta) if batch_norm.center else np.zeros_like(mean)
    a = gamma / np.sqrt(variance)
    b = beta - a * mean
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CannotFold("its weights or moving statistics are not finite")
    shape = [1] * (rank - 1)
    shape[axis - 1] = -1
    return Affine(a.reshape(shape), b.reshape(shape))


def to_float64(variable: Any) -> np.ndarray:
    """Returns a variable's value in float64."""
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)
