"""Stacking rules of BatchNormalization and LayerNormalization."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import Layout, StackedTensor


def _along_channels(layer: Any) -> bool:
    last = layer.axis in (-1, layer.input_spec.ndim - 1)
    return last and not getattr(layer, "renorm", False)


@stacks(keras.layers.BatchNormalization, where=_along_channels)
def batch_normalization(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns γ(x − μ)/√(σ² + ε) + β, with the statistics of the batch in training."""
    if x.layout is Layout.SHARED:
        x = StackedTensor(x.size, grouped=x.grouped)
    axes = tuple(range(x.layout is Layout.STACKED, len(x.value.shape) - 1))
    updates = training and layer.trainable
    # With cuDNN the kernel does not return the variance.
    if updates and x.layout is Layout.GROUPED and not tf.config.list_logical_devices("GPU"):
        return _fused(layer, values, x)
    mean, variance = (
        values.broadcastable(v, x) for v in (layer.moving_mean, layer.moving_variance)
    )
    if updates:
        mean, variance = ops.moments(x.value, axes=axes, keepdims=True)
        _update_statistics(layer, values, x, mean, variance)
    return _normalize(layer, values, x, mean, variance)


def _fused(layer: Any, values: Any, x: StackedTensor) -> StackedTensor:
    """Normalizes the channels of all models with TensorFlow's fused kernel."""
    width = x.size * x.channels
    scale = tf.ones(width) if layer.gamma is None else values.get(layer.gamma)
    shift = tf.zeros(width) if layer.beta is None else values.get(layer.beta)
    # The third output, Σ(x − μ)²/(n − 1), is unbiased; Keras's variance is not.
    y, mean, _, _, variance, _ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x.value, (-1, 1, 1, width)),
        scale=tf.reshape(scale, (width,)),
        offset=tf.reshape(shift, (width,)),
        mean=tf.zeros(0),
        variance=tf.zeros(0),
        epsilon=layer.epsilon,
        is_training=True,
    )
    _update_statistics(layer, values, x, mean, variance)
    return x.like(tf.reshape(y, tf.shape(x.value)))


def _update_statistics(layer: Any, values: Any, x: StackedTensor, mean: Any, variance: Any) -> None:
    """Updates the moving mean and variance."""
    for variable, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        average = values.get(variable) * layer.momentum
        average = average + ops.reshape(new, (x.size, x.channels)) * (1.0 - layer.momentum)
        values.set(variable, average)


def _last_only(layer: Any) -> bool:
    last = len(layer.get_build_config()["input_shape"]) - 1
    return layer.axis in ([-1], [last]) and not getattr(layer, "rms_scaling", False)


@stacks(keras.layers.LayerNormalization, where=_last_only)
def layer_normalization(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns γ(x − μ)/√(σ² + ε) + β, with the statistics of the last axis of each row."""
    y = StackedTensor(x.size, stacked=x.stacked)
    mean, variance = ops.moments(y.value, axes=-1, keepdims=True)
    return _normalize(layer, values, y, mean, variance)


def _normalize(
    layer: Any, values: Any, x: StackedTensor, mean: Any, variance: Any
) -> StackedTensor:
    """Returns γ(x − μ)/√(σ² + ε) + β."""
    scale = ops.rsqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * values.broadcastable(layer.gamma, x)
    shift = -mean * scale
    if layer.beta is not None:
        shift = shift + values.broadcastable(layer.beta, x)
    return x.like(x.value * scale + shift)
