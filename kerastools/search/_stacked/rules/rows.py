"""Layers without weights: what they do to a row they do to the rows of all models."""

from typing import Any

import keras
from keras import ops

from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import StackedTensor

# What a Normalization was adapted to are constants of the structure.
_OF_ROWS = (
    "Flatten Reshape Permute RepeatVector Softmax Rescaling Normalization UnitNormalization "
    "Concatenate Dot"
)
_OF_CHANNELS = " ".join(
    f"{kind}{n}D"
    for n in (1, 2, 3)
    for kind in (
        "MaxPooling",
        "AveragePooling",
        "GlobalMaxPooling",
        "GlobalAveragePooling",
        "ZeroPadding",
        "Cropping",
        "UpSampling",
    )
    if (kind, n) != ("MaxPooling", 2)  # Which has a file of its own.
)
_MERGES = "Add Subtract Multiply Average Maximum Minimum"


def _named(names: str) -> list[type]:
    return [getattr(keras.layers, name) for name in names.split()]


def _is_last(layer: Any) -> bool:
    return getattr(layer, "data_format", None) in (None, "channels_last")


@stacks(*_named(_OF_ROWS), where=_is_last)
def rows(layer: Any, values: Any, training: bool, x: Any) -> StackedTensor:
    """Returns what the layer makes of each row."""
    tensors: list[StackedTensor] = x if isinstance(x, list) else [x]
    size = tensors[0].size
    if all(tensor.held == "common" for tensor in tensors):
        flat = [tensor.common for tensor in tensors]
    else:
        flat = [ops.reshape(t.members, (-1, *ops.shape(t.members)[2:])) for t in tensors]
    y = layer.call(flat if isinstance(x, list) else flat[0])
    if all(tensor.held == "common" for tensor in tensors):
        return StackedTensor(size, common=y)
    return StackedTensor(size, members=ops.reshape(y, (size, -1, *ops.shape(y)[1:])))


@stacks(*_named(_OF_CHANNELS), where=_is_last)
def channels(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns what the layer makes of each channel."""
    return x.like(layer.call(x.side)) if x.held == "side" else rows(layer, values, training, x)


@stacks(*_named(_MERGES))
def merge(layer: Any, values: Any, training: bool, x: list[StackedTensor]) -> StackedTensor:
    """Returns what the layer makes of several tensors, number by number."""
    alike = len({(tensor.rank, tensor.channels) for tensor in x}) == 1
    if alike and any(tensor.held == "side" for tensor in x):
        return StackedTensor(x[0].size, side=layer.call([tensor.side for tensor in x]))
    return rows(layer, values, training, x)
