"""Stacking rules of layers without weights: reshaping, pooling, merging."""

from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools._core.graph.kinds import layer_classes
from kerastools.search._stacked.rules.convolution import groups_work
from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import Layout, StackedTensor

# A Normalization's statistics are part of the description, and equal in all models.
_OF_ROWS = (
    *layer_classes("flatten", "reshape", "permute", "repeat", "softmax", "concatenate", "dot"),
    *layer_classes("rescaling", "feature_normalization", "unit_normalization"),
)
_OF_CHANNELS = layer_classes(
    "max_pooling",
    "average_pooling",
    "global_max_pooling",
    "global_average_pooling",
    "zero_padding",
    "cropping",
    "up_sampling",
)
_MERGES = layer_classes("add", "weighted_sum", "extremum", "multiply")


def _is_last(layer: Any) -> bool:
    return getattr(layer, "data_format", None) in (None, "channels_last")


@stacks(*_OF_ROWS, where=_is_last)
def rows(layer: Any, values: Any, training: bool, x: Any) -> StackedTensor:
    """Calls the layer once, with the rows of all models as one batch."""
    tensors: list[StackedTensor] = x if isinstance(x, list) else [x]
    size = tensors[0].size
    if all(tensor.layout is Layout.SHARED for tensor in tensors):
        flat = [tensor.shared for tensor in tensors]
    else:
        flat = [ops.reshape(t.stacked, (-1, *ops.shape(t.stacked)[2:])) for t in tensors]
    y = layer.call(flat if isinstance(x, list) else flat[0])
    if all(tensor.layout is Layout.SHARED for tensor in tensors):
        return StackedTensor(size, shared=y)
    return StackedTensor(size, stacked=ops.reshape(y, (size, -1, *ops.shape(y)[1:])))


@stacks(*_OF_CHANNELS, where=_is_last)
def channels(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Calls the layer once, with the channels of all models if they are grouped."""
    return (
        x.like(layer.call(x.grouped))
        if x.layout is Layout.GROUPED
        else rows(layer, values, training, x)
    )


@stacks(*_MERGES)
def merge(layer: Any, values: Any, training: bool, x: list[StackedTensor]) -> StackedTensor:
    """Calls a merging layer once, element-wise."""
    alike = len({(tensor.rank, tensor.channels) for tensor in x}) == 1
    if alike and any(tensor.layout is Layout.GROUPED for tensor in x):
        return StackedTensor(x[0].size, grouped=layer.call([tensor.grouped for tensor in x]))
    return rows(layer, values, training, x)


@stacks(keras.layers.MaxPooling2D, where=lambda layer: layer.data_format == "channels_last")
def max_pooling(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns the maximum of each block."""
    # oneDNN, which supports grouped convolutions, has a fast gradient of pooling, and so have GPUs.
    if x.layout is Layout.SHARED or groups_work() or not _has_blocks(layer, x.shape[1:3]):
        return channels(layer, values, training, x)
    pool = partial(max_pool_blocks, size=layer.pool_size)
    if x.layout is Layout.GROUPED:
        return x.like(pool(x.grouped))
    y = pool(ops.reshape(x.stacked, (-1, *x.stacked.shape[2:])))
    return x.like(ops.reshape(y, (x.size, -1, *y.shape[1:])))


def _has_blocks(layer: Any, lengths: tuple[Any, ...]) -> bool:
    """Whether the blocks do not overlap and are not padded."""
    if not all(isinstance(length, int) for length in lengths):
        return False
    whole = all(n % block == 0 for n, block in zip(lengths, layer.pool_size, strict=True))
    return layer.strides == layer.pool_size and (whole or layer.padding == "valid")


def max_pool_blocks(x: Any, size: tuple[int, int]) -> Any:
    """Returns `tf.nn.max_pool2d` of x (rows, height, width, channels), with a faster gradient.

    TensorFlow's gradient searches each block's maximum again, element by element, which takes a
    quarter of a training step of a small convolutional net. This one compares whole arrays.
    """

    @tf.custom_gradient
    def pool(x: Any) -> tuple[Any, Any]:
        y = tf.nn.max_pool2d(x, size, size, "VALID")

        def gradient(dy: Any) -> Any:
            # Of equal maxima the first gets the gradient, as in TensorFlow.
            free = tf.ones_like(y, "bool")
            parts = []
            for part in _block_elements(x, y.shape, size):
                hit = tf.equal(part, y) & free
                parts.append(tf.where(hit, dy, tf.zeros_like(dy)))
                free &= ~hit
            return _from_block_elements(parts, x, y.shape, size)

        return y, gradient

    return pool(x)


def _block_elements(x: Any, shape: Any, size: tuple[int, int]) -> list[Any]:
    """Returns one array of the pooled shape for each position within a block, row by row."""
    (height, width), (_, rows, columns, depth) = size, shape
    x = tf.reshape(
        x[:, : rows * height, : columns * width], (-1, rows, height, columns * width, depth)
    )
    lines = [tf.reshape(line, (-1, rows, columns, width, depth)) for line in tf.unstack(x, axis=2)]
    return [part for line in lines for part in tf.unstack(line, axis=3)]


def _from_block_elements(parts: list[Any], x: Any, shape: Any, size: tuple[int, int]) -> Any:
    """Inverts `_block_elements`, with zeros outside the blocks."""
    (height, width), (_, rows, columns, depth) = size, shape
    lines = [tf.stack(parts[i : i + width], axis=3) for i in range(0, height * width, width)]
    joined = tf.reshape(tf.stack(lines, axis=2), (-1, rows * height, columns * width, depth))
    below, right = x.shape[1] - rows * height, x.shape[2] - columns * width
    return tf.pad(joined, ((0, 0), (0, below), (0, right), (0, 0))) if below or right else joined
