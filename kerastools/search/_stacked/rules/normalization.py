"""Normalisation over rows or over units."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import StackedTensor


def _along_channels(layer: Any) -> bool:
    last = layer.axis in (-1, layer.input_spec.ndim - 1)
    return last and not getattr(layer, "renorm", False)


@stacks(keras.layers.BatchNormalization, where=_along_channels)
def batch_normalization(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns γ(x − μ)/√(σ² + ε) + β, with the batch's statistics in training."""
    if x.held == "common":
        x = StackedTensor(x.size, side=x.side)
    axes = tuple(range(x.held == "members", len(x.value.shape) - 1))
    moves = training and layer.trainable
    # With cuDNN the kernel does not tell the variance.
    if moves and x.held == "side" and not tf.config.list_logical_devices("GPU"):
        return _in_one_operation(layer, values, x)
    mean, variance = (values.aligned(v, x) for v in (layer.moving_mean, layer.moving_variance))
    if moves:
        mean, variance = ops.moments(x.value, axes=axes, keepdims=True)
        _move(layer, values, x, mean, variance)
    return _normalized(layer, values, x, mean, variance)


def _in_one_operation(layer: Any, values: Any, x: StackedTensor) -> StackedTensor:
    """Normalises the channels of all models with TensorFlow's kernel."""
    width = x.size * x.channels
    scale = tf.ones(width) if layer.gamma is None else values.get(layer.gamma)
    shift = tf.zeros(width) if layer.beta is None else values.get(layer.beta)
    # The third is Σ(x − μ)²/(n − 1), where Keras's is over n.
    y, mean, _, _, variance, _ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x.value, (-1, 1, 1, width)),
        scale=tf.reshape(scale, (width,)),
        offset=tf.reshape(shift, (width,)),
        mean=tf.zeros(0),
        variance=tf.zeros(0),
        epsilon=layer.epsilon,
        is_training=True,
    )
    _move(layer, values, x, mean, variance)
    return x.like(tf.reshape(y, tf.shape(x.value)))


def _move(layer: Any, values: Any, x: StackedTensor, mean: Any, variance: Any) -> None:
    """Moves the averages towards the statistics of the batch."""
    for variable, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moved = values.get(variable) * layer.momentum
        moved = moved + ops.reshape(new, (x.size, x.channels)) * (1.0 - layer.momentum)
        values.set(variable, moved)


def _last_only(layer: Any) -> bool:
    return layer.axis in (-1, [-1]) and not getattr(layer, "rms_scaling", False)


@stacks(keras.layers.LayerNormalization, where=_last_only)
def layer_normalization(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns γ(x − μ)/√(σ² + ε) + β, with the statistics of each row's last axis."""
    y = StackedTensor(x.size, members=x.members)
    mean, variance = ops.moments(y.value, axes=-1, keepdims=True)
    return _normalized(layer, values, y, mean, variance)


def _normalized(
    layer: Any, values: Any, x: StackedTensor, mean: Any, variance: Any
) -> StackedTensor:
    """Returns γ(x − μ)/√(σ² + ε) + β."""
    scale = ops.rsqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * values.aligned(layer.gamma, x)
    shift = -mean * scale
    if layer.beta is not None:
        shift = shift + values.aligned(layer.beta, x)
    return x.like(x.value * scale + shift)
