"""Stacking rules of convolutions: those of K models are one with K groups."""

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools.search._stacked.rules.elementwise import activate, is_keras_function
from kerastools.search._stacked.rules.registry import one_by_one, stacks
from kerastools.search._stacked.stacked_tensor import Layout, StackedTensor


def _is_plain(layer: Any) -> bool:
    return (
        layer.data_format == "channels_last"
        and not getattr(layer, "lora_enabled", False)
        and is_keras_function(layer.activation)
    )


@functools.cache
def groups_work() -> bool:
    """Whether TensorFlow supports grouped convolutions here; on CPUs it needs oneDNN."""
    with tf.init_scope():  # It pauses every tape, so the gradient's operation is called directly.
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
    shared = x.layout is Layout.SHARED and layer.groups == 1
    if not shared and not groups_work():
        return one_by_one(layer, values, training, x)
    kernel = StackedTensor(x.size, stacked=values.get(layer.kernel)).grouped
    y = _convolve(layer, x.shared if shared else x.grouped, kernel)
    return _finish(layer, values, StackedTensor(x.size, grouped=y))


@stacks(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D, where=_is_plain)
def depthwise(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(x ∗ W + b) per channel: the grouped channels of K models need no groups."""
    return _finish(layer, values, _depthwise(layer, values.get(layer.kernel), x))


@stacks(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D, where=_is_plain)
def separable(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f((x ∗ D) P + b): a depthwise convolution, then a pointwise one."""
    if not groups_work():
        return one_by_one(layer, values, training, x)
    y = _depthwise(layer, values.get(layer.depthwise_kernel), x)
    point = StackedTensor(x.size, stacked=values.get(layer.pointwise_kernel)).grouped
    point = ops.reshape(point, (1,) * (4 - len(point.shape)) + tuple(point.shape))
    channels = y.grouped[:, None] if layer.rank == 1 else y.grouped
    channels = tf.nn.conv2d(channels, point, 1, "VALID")
    channels = channels[:, 0] if layer.rank == 1 else channels
    return _finish(layer, values, StackedTensor(x.size, grouped=channels))


def _finish(layer: Any, values: Any, y: StackedTensor) -> StackedTensor:
    if layer.use_bias:
        y = y.map(lambda value: value + values.broadcastable(layer.bias, y))
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


def _depthwise(layer: Any, kernel: Any, x: StackedTensor) -> StackedTensor:
    """Returns the depthwise convolution by kernels of shape (K, ..., channels, multiplier)."""
    multiplier = kernel.shape[-1]
    axes = (*range(1, layer.rank + 1), 0, layer.rank + 1, layer.rank + 2)
    shape = (*kernel.shape[1:-2], x.size * x.channels, multiplier)
    kernel = ops.reshape(ops.transpose(kernel, axes), shape)
    strides, dilations, channels = list(layer.strides), list(layer.dilation_rate), x.grouped
    if layer.rank == 1:
        # TensorFlow needs equal strides and dilations; there is only one row.
        channels, kernel = channels[:, None], kernel[None]
        strides, dilations = strides * 2, dilations * 2
    y = tf.nn.depthwise_conv2d(
        channels, kernel, [1, *strides, 1], layer.padding.upper(), dilations=dilations
    )
    return StackedTensor(x.size, grouped=y[:, 0] if layer.rank == 1 else y)
