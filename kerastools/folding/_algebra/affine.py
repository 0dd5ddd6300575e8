"""Maps z = a⊗x + b: the layers that compute one in inference, and those that one passes through."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.kinds import kind_of, known_class

Shape = tuple[int | None, ...]


class CannotFold(Exception):  # noqa: N818 - no error: the layer stays where it is
    """Why a layer stays; the message goes into the report."""


@dataclass(frozen=True)
class Affine:
    """z = scale ⊗ x + shift, in float64.

    Attributes:
        scale: a, with one axis per axis of x but the first (the batch); its sizes broadcast.
        shift: b, of the same shape.
    """

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def of_vectors(cls, scale: Any, shift: Any, axis: int, rank: int) -> "Affine":
        """Returns a and b, vectors along `axis` of x or numbers, for an x of `rank` axes."""
        scale, shift = np.broadcast_arrays(np.atleast_1d(scale), np.atleast_1d(shift))
        shape = [1] * (rank - 1)
        shape[axis - 1] = -1
        return cls(scale.reshape(shape), shift.reshape(shape))

    @property
    def shifts(self) -> bool:
        """Whether b is not zero."""
        return bool(self.shift.any())

    def without_shift(self) -> "Affine":
        """Returns a⊗x."""
        return replace(self, shift=np.zeros_like(self.shift))

    def along(self, axis: int, size: int | None = None) -> "Affine":
        """Returns a and b as vectors along `axis` of x, or raises if they vary along others."""
        others = [i for i in range(self.scale.ndim) if i != axis - 1 and self.scale.shape[i] != 1]
        if others:
            raise CannotFold(
                f"works along axis {others[0] + 1}, while the layer's channels are axis {axis}"
            )
        size = size or self.scale.size
        return Affine(*(np.broadcast_to(v.reshape(-1), size) for v in (self.scale, self.shift)))

    def reshaped(self, source: Any, target: Any) -> "Affine":
        """Returns a and b for x of shape `source` after its reshaping to `target`."""
        before, after = source[1:], target[1:]
        if None in before or None in after:
            if self.scale.size == 1:
                return Affine(*(v.reshape([1] * len(after)) for v in self._pair))
            raise CannotFold("a reshape between has sizes that are open")
        arrays = (np.broadcast_to(v, before).reshape(after) for v in self._pair)
        return Affine(*arrays)._compressed()

    def _compressed(self) -> "Affine":
        """Returns the same with size 1 along every axis along which a and b are constant."""
        scale, shift = self._pair
        for axis in range(scale.ndim):
            first = [v.take([0], axis) for v in (scale, shift)]
            if (scale == first[0]).all() and (shift == first[1]).all():
                scale, shift = first
        return Affine(scale, shift)

    def split(self, axis: int, sizes: list[int | None]) -> list["Affine"]:
        """Returns the parts for inputs of `sizes` that are concatenated along `axis`."""
        if self.scale.shape[axis - 1] == 1:
            return [self] * len(sizes)
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            raise CannotFold("joins parts whose sizes are open")
        ends = np.cumsum(known)[:-1].tolist()
        return [
            Affine(a, b)
            for a, b in zip(*(np.split(v, ends, axis - 1) for v in self._pair), strict=True)
        ]

    @property
    def _pair(self) -> tuple[np.ndarray, np.ndarray]:
        return self.scale, self.shift


def affine_of(layer: Any, rank: int) -> Affine:
    """Returns what a built layer of `AFFINE_LAYERS` does in inference to inputs of `rank` axes."""
    affine = AFFINE_LAYERS[known_class(layer)](layer, rank)
    if not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
        raise CannotFold("its weights or moving statistics are not finite")
    return affine


def statistics(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation that such a layer carries of its input.

    A `Rescaling` carries none: its input may be of any size.
    """
    if kind_of(layer).name == "batch_normalization":
        variance = np.maximum(to_float64(layer.moving_variance), 0)
        return to_float64(layer.moving_mean), np.sqrt(variance)
    if kind_of(layer).name == "feature_normalization":
        return to_float64(layer.mean), np.sqrt(to_float64(layer.variance))
    return np.array(np.inf), np.array(np.inf)


def _batch_normalization(layer: Any, rank: int) -> Affine:
    """Returns a = γ/√(σ²+ε) and b = β − aμ."""
    axis = layer.axis % rank
    if axis == 0:
        raise CannotFold("normalises along the batch axis")
    mean = to_float64(layer.moving_mean)
    variance = to_float64(layer.moving_variance) + layer.epsilon
    if (variance <= 0).any():
        raise CannotFold(f"moving_variance + epsilon is {variance.min():.3g}, not positive")
    gamma = to_float64(layer.gamma) if layer.scale else np.ones_like(mean)
    beta = to_float64(layer.beta) if layer.center else np.zeros_like(mean)
    a = gamma / np.sqrt(variance)
    return Affine.of_vectors(a, beta - a * mean, axis, rank)


def _normalization(layer: Any, rank: int) -> Affine:
    """Returns a = 1/max(σ, ε) and b = −aμ."""
    if layer.invert:
        raise CannotFold("inverts a normalisation")
    mean, variance = (to_float64(v) for v in (layer.mean, layer.variance))
    a = 1 / np.maximum(np.sqrt(variance), keras.backend.epsilon())
    if np.max(np.abs(a * mean)) > _FAR_FROM_ZERO:
        raise CannotFold("its mean is so far from zero that subtracting it first is more exact")
    if mean.ndim > rank or (mean.ndim == rank and mean.shape[0] != 1):
        raise CannotFold("normalises along the batch axis")
    shape = (1,) * (rank - mean.ndim) + mean.shape
    return Affine(a.reshape(shape[1:]), (-a * mean).reshape(shape[1:]))


def _rescaling(layer: Any, rank: int) -> Affine:
    scale, offset = (np.asarray(v, "float64") for v in (layer.scale, layer.offset))
    if scale.size > 1 or offset.size > 1:
        if keras.config.image_data_format() != "channels_last":
            raise CannotFold("scales channels first")
        if max(scale.ndim, offset.ndim) > 1:
            raise CannotFold("scales along several axes")
    return Affine.of_vectors(scale, offset, rank - 1, rank)


AFFINE_LAYERS = {
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Normalization: _normalization,
    keras.layers.Rescaling: _rescaling,
}
# The largest value of each half-precision dtype. NumPy's finfo does not know bfloat16, which has
# float32's exponents and 8 bits of fraction.
RANGE_OF_HALF = {"float16": 65504.0, "bfloat16": (2 - 2**-7) * 2.0**127}
# Standard deviations between the mean and zero, which cost as much accuracy when W(x − μ) becomes
# Wx − Wμ.
_FAR_FROM_ZERO = 100.0


def to_float64(variable: Any) -> np.ndarray:
    """Returns a variable's value in float64."""
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)


Passage = Callable[[Any, Affine, Shape, Shape], Affine]


def passage(layer: Any) -> Passage | None:
    """Returns how an affine map passes `layer` in inference, or `None` if it cannot.

    The function takes the layer, the map, the shape of the tensor that the map belongs to and the
    shape at the other side of the layer; it works in both directions.
    """
    if kind_of(layer).identity_in_inference or _is_linear(layer):
        return _unchanged
    return _PASSAGES.get(kind_of(layer).name)


def _is_linear(layer: Any) -> bool:
    return kind_of(layer).name == "activation" and layer.activation is keras.activations.linear


def _unchanged(layer: Any, affine: Affine, source: Shape, target: Shape) -> Affine:
    return affine


def _channel_axis(layer: Any, rank: int) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _channels_only(layer: Any, affine: Affine, source: Shape, target: Shape) -> Affine:
    """Averages, copies and cuts of places: the same map must hold at every place."""
    vectors = affine.along(_channel_axis(layer, len(source)))
    axis = _channel_axis(layer, len(target))
    return Affine.of_vectors(vectors.scale, vectors.shift, axis, len(target))


def _maximum(layer: Any, affine: Affine, source: Shape, target: Shape) -> Affine:
    if not (affine.scale > 0).all():
        raise CannotFold(f"{layer.name} takes a maximum, and not every scale is positive")
    return _channels_only(layer, affine, source, target)


def _zero_padding(layer: Any, affine: Affine, source: Shape, target: Shape) -> Affine:
    if affine.shifts:
        raise CannotFold(f"{layer.name} pads with zeros, not with the shift")
    return _channels_only(layer, affine, source, target)


def _upsampling(layer: Any, affine: Affine, source: Shape, target: Shape) -> Affine:
    if getattr(layer, "interpolation", "nearest") not in ("nearest", "bilinear"):
        raise CannotFold(f"{layer.name} interpolates by {layer.interpolation}")
    return _channels_only(layer, affine, source, target)


def _reshape(layer: Any, affine: Affine, source: Shape, target: Shape) -> Affine:
    return affine.reshaped(source, target)


def _flatten(layer: Any, affine: Affine, source: Shape, target: Shape) -> Affine:
    if layer.data_format == "channels_first" and max(len(source), len(target)) > 2:
        raise CannotFold(f"{layer.name} reorders channels")
    return affine.reshaped(source, target)


_PASSAGES: dict[str, Passage] = {
    "average_pooling": _channels_only,
    "global_average_pooling": _channels_only,
    "adaptive_average_pooling": _channels_only,
    "max_pooling": _maximum,
    "global_max_pooling": _maximum,
    "adaptive_max_pooling": _maximum,
    "cropping": _channels_only,
    "up_sampling": _upsampling,
    "zero_padding": _zero_padding,
    "reshape": _reshape,
    "flatten": _flatten,
}
