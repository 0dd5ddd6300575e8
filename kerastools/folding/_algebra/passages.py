"""Layers f without weights through which a⊗x + b passes: f(a⊗x + b) = a'⊗f(x) + b'."""

from collections.abc import Callable
from typing import Any

import keras

from kerastools import layers
from kerastools.folding._algebra.affine import Affine, CannotFold

Shape = tuple[int | None, ...]
Passage = Callable[[Any, Affine, Shape, Shape], Affine]


def passage(layer: Any) -> Passage | None:
    """Returns how an affine map passes `layer` in inference, or `None` if it cannot.

    The function takes the layer, the map, the shape of the tensor that the map belongs to and the
    shape at the other side of the layer; it works in both directions.
    """
    if type(layer) is keras.layers.Activation:
        return _unchanged if layer.activation is keras.activations.linear else None
    return _PASSAGES.get(type(layer))


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


_INFERENCE_NO_OPS = (
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    *(cls for cls in vars(layers).values() if isinstance(cls, type)),
)
# Exactly these: a subclass may compute something else.
_PASSAGES: dict[type, Passage] = {
    **dict.fromkeys(_INFERENCE_NO_OPS, _unchanged),
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
