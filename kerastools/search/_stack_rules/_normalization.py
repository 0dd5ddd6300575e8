"""Normalisation over rows or over units."""

from typing import Any

import keras
from keras import ops

from kerastools.search._stack_rules._registry import stacks
from kerastools.search._stacked_tensor import StackedTensor


def _along_channels(layer: Any) -> bool:
    last = layer.axis in (-1, layer.input_spec.ndim - 1)
    return last and not getattr(layer, "renorm", False)


@stacks(keras.layers.BatchNormalization, where=_along_channels)
def batch_normalization(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns γ(x − μ)/√(σ² + ε) + β, with the batch's statistics in training."""
    if x.held == "common":
        x = StackedTensor(x.size, side=x.side)
    axes = tuple(range(x.held == "members", len(x.value.shape) - 1))
    mean, variance = (values.aligned(v, x) for v in (layer.moving_mean, layer.moving_variance))
    if training and layer.trainable:
        mean, variance = ops.moments(x.value, axes=axes, keepdims=True)
        shape = (x.size, x.channels)
        for variable, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moved = values.get(variable) * layer.momentum
            moved = moved + ops.reshape(new, shape) * (1.0 - layer.momentum)
            values.set(variable, moved)
    return _normalized(layer, values, x, mean, variance)


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
