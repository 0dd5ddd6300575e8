"""Convolutions: those of K models are one with K groups."""

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools.search._stacked.rules.elementwise import activate, is_keras_function
from kerastools.search._stacked.rules.registry import one_by_one, stacks
from kerastools.search._stacked.stacked_tensor import StackedTensor


def _is_plain(layer: Any) -> bool:
    return (
        layer.data_format == "channels_last"
        and not getattr(layer, "lora_enabled", False)
        and is_keras_function(layer.activation)
    )


@functools.cache
def groups_work() -> bool:
    """Returns whether TensorFlow can convolve in groups here; on CPUs it takes oneDNN for it."""
    with tf.init_scope():  # Which pauses every tape, so the gradient is asked for by its name.
        try:
            tf.raw_ops.Conv2DBackpropFilter(
                input=tf.ones((1, 3, 3, 2)),
                filter_sizes=(2, 2, 1, 2),
                out_backprop=tf.ones((1, 2, 2, 2)),
                strides=(1, 1, 1, 1),
                padding="VALID",
            )
        except tf.errors.OpError:
            return False
        return True


@stacks(keras.layers.Conv1D, keras.layers.Conv2D, where=_is_plain)
def convolution(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(x ∗ W + b)."""
    common = x.held == "common" and layer.groups == 1
    if not common and not groups_work():
        return one_by_one(layer, values, training, x)
    kernel = StackedTensor(x.size, members=values.get(layer.kernel)).side
    y = _convolve(layer, x.common if common else x.side, kernel)
    return _finished(layer, values, StackedTensor(x.size, side=y))


@stacks(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D, where=_is_plain)
def depthwise(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(x ∗ W + b), each channel by itself, as the channels of all models lie anyway."""
    return _finished(layer, values, _each_channel(layer, values.get(layer.kernel), x))


@stacks(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D, where=_is_plain)
def separable(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f((x ∗ D) P + b): each channel by itself, then all of a point."""
    if not groups_work():
        return one_by_one(layer, values, training, x)
    y = _each_channel(layer, values.get(layer.depthwise_kernel), x)
    point = StackedTensor(x.size, members=values.get(layer.pointwise_kernel)).side
    point = ops.reshape(point, (1,) * (4 - len(point.shape)) + tuple(point.shape))
    side = y.side[:, None] if layer.rank == 1 else y.side
    side = tf.nn.conv2d(side, point, 1, "VALID")
    side = side[:, 0] if layer.rank == 1 else side
    return _finished(layer, values, StackedTensor(x.size, side=side))


def _finished(layer: Any, values: Any, y: StackedTensor) -> StackedTensor:
    if layer.use_bias:
        y = y.map(lambda value: value + values.aligned(layer.bias, y))
    return activate(layer.activation, y)


def _convolve(layer: Any, x: Any, kernel: Any) -> Any:
    strides, dilations, padding = list(layer.strides), list(layer.dilation_rate), layer.padding
    if layer.rank == 1:
        if padding == "causal":
            before = dilations[0] * (layer.kernel_size[0] - 1)
            x, padding = ops.pad(x, ((0, 0), (before, 0), (0, 0))), "valid"
        x, kernel = x[:, None], kernel[None]
        strides, dilations = [1, *strides], [1, *dilations]
    y = tf.nn.conv2d(x, kernel, strides, padding.upper(), dilations=dilations)
    return y[:, 0] if layer.rank == 1 else y


def _each_channel(layer: Any, kernel: Any, x: StackedTensor) -> StackedTensor:
    """Convolves each channel with its kernels, (K, ..., channels, multiplier)."""
    multiplier = kernel.shape[-1]
    axes = (*range(1, layer.rank + 1), 0, layer.rank + 1, layer.rank + 2)
    shape = (*kernel.shape[1:-2], x.size * x.channels, multiplier)
    kernel = ops.reshape(ops.transpose(kernel, axes), shape)
    strides, dilations, side = list(layer.strides), list(layer.dilation_rate), x.side
    if layer.rank == 1:
        # TensorFlow wants equal strides and dilations; there is one row only.
        side, kernel = side[:, None], kernel[None]
        strides, dilations = strides * 2, dilations * 2
    y = tf.nn.depthwise_conv2d(
        side, kernel, [1, *strides, 1], layer.padding.upper(), dilations=dilations
    )
    return StackedTensor(x.size, side=y[:, 0] if layer.rank == 1 else y)
