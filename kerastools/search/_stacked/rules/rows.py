"""Stacking rules of layers without weights: reshaping, pooling, merging."""

from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools.search._stacked.rules.convolution import groups_work
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


@stacks(keras.layers.MaxPooling2D, where=lambda layer: layer.data_format == "channels_last")
def max_pooling(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns the largest number of each block."""
    # The same oneDNN that convolves in groups has a fast gradient, and GPUs do.
    if x.held == "common" or groups_work() or not _has_blocks(layer, x.shape[1:3]):
        return channels(layer, values, training, x)
    pool = partial(largest_of_blocks, size=layer.pool_size)
    if x.held == "side":
        return x.like(pool(x.side))
    y = pool(ops.reshape(x.members, (-1, *x.members.shape[2:])))
    return x.like(ops.reshape(y, (x.size, -1, *y.shape[1:])))


def _has_blocks(layer: Any, lengths: tuple[Any, ...]) -> bool:
    """Returns whether blocks of `pool_size` lie side by side, none of them padded."""
    if not all(isinstance(length, int) for length in lengths):
        return False
    whole = all(n % block == 0 for n, block in zip(lengths, layer.pool_size, strict=True))
    return layer.strides == layer.pool_size and (whole or layer.padding == "valid")


def largest_of_blocks(x: Any, size: tuple[int, int]) -> Any:
    """Returns `tf.nn.max_pool2d` of x (rows, height, width, channels), with a faster gradient.

    TensorFlow's looks for each block's largest number again, one number at a time, in a quarter of
    the time of a small convolutional net's step. This compares whole arrays.
    """

    @tf.custom_gradient
    def pool(x: Any) -> tuple[Any, Any]:
        y = tf.nn.max_pool2d(x, size, size, "VALID")

        def gradient(dy: Any) -> Any:
            # Of equal ones the first gets it, as in TensorFlow.
            free = tf.ones_like(y, "bool")
            parts = []
            for part in _parts(x, y.shape, size):
                hit = tf.equal(part, y) & free
                parts.append(tf.where(hit, dy, tf.zeros_like(dy)))
                free &= ~hit
            return _joined(parts, x, y.shape, size)

        return y, gradient

    return pool(x)


def _parts(x: Any, shape: Any, size: tuple[int, int]) -> list[Any]:
    """Returns what stands at each place of the blocks, row by row, of the pooled shape each."""
    (height, width), (_, rows, columns, depth) = size, shape
    x = tf.reshape(
        x[:, : rows * height, : columns * width], (-1, rows, height, columns * width, depth)
    )
    lines = [tf.reshape(line, (-1, rows, columns, width, depth)) for line in tf.unstack(x, axis=2)]
    return [part for line in lines for part in tf.unstack(line, axis=3)]


def _joined(parts: list[Any], x: Any, shape: Any, size: tuple[int, int]) -> Any:
    """Returns what `_parts` was given, with zeros where no block is."""
    (height, width), (_, rows, columns, depth) = size, shape
    lines = [tf.stack(parts[i : i + width], axis=3) for i in range(0, height * width, width)]
    joined = tf.reshape(tf.stack(lines, axis=2), (-1, rows * height, columns * width, depth))
    below, beside = x.shape[1] - rows * height, x.shape[2] - columns * width
    return tf.pad(joined, ((0, 0), (0, below), (0, beside), (0, 0))) if below or beside else joined
