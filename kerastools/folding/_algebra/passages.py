"""Layers f without weights through which a⊗x + b passes: f(a⊗x + b) = a'⊗f(x) + b'."""

from collections.abc import Callable
from typing import Any

import keras

from kerastools._core.graph.kinds import kind_of, known_class
from kerastools.folding._algebra.affine import Affine, CannotFold

Shape = tuple[int | None, ...]
Passage = Callable[[Any, Affine, Shape, Shape], Affine]


def passage(layer: Any) -> Passage | None:
    """Returns how an affine map passes `layer` in inference, or `None` if it cannot.

    The function takes the layer, the map, the shape of the tensor that the map belongs to and the
    shape at the other side of the layer; it works in both directions.
    """
    if kind_of(layer).identity_in_inference or _is_linear(layer):
        return _unchanged
    return _PASSAGES.get(known_class(layer))


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


_PASSAGES: dict[type | None, Passage] = {
    keras.layers.AveragePooling1D: _channels_only,
    keras.layers.AveragePooling2D: _channels_only,
    keras.layers.AveragePooling3D: _channels_only,
    keras.layers.GlobalAveragePooling1D: _channels_only,
    keras.layers.GlobalAveragePooling2D: _channels_only,
    keras.layers.GlobalAveragePooling3D: _channels_only,
    keras.layers.MaxPooling1D: _maximum,
    keras.layers.MaxPooling2D: _maximum,
    keras.layers.MaxPooling3D: _maximum,
    keras.layers.GlobalMaxPooling1D: _maximum,
    keras.layers.GlobalMaxPooling2D: _maximum,
    keras.layers.GlobalMaxPooling3D: _maximum,
    keras.layers.Cropping1D: _channels_only,
    keras.layers.Cropping2D: _channels_only,
    keras.layers.Cropping3D: _channels_only,
    keras.layers.UpSampling1D: _upsampling,
    keras.layers.UpSampling2D: _upsampling,
    keras.layers.UpSampling3D: _upsampling,
    keras.layers.ZeroPadding1D: _zero_padding,
    keras.layers.ZeroPadding2D: _zero_padding,
    keras.layers.ZeroPadding3D: _zero_padding,
    keras.layers.Reshape: _reshape,
    keras.layers.Flatten: _flatten,
}
