"""Stacking rules of element-wise layers: activations and dropout."""

from typing import Any

import keras
from keras import ops

from kerastools import layers
from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import Layout, StackedTensor

# Keras's activations that are not element-wise.
_ALONG_THE_LAST_AXIS = {"softmax", "log_softmax", "sparsemax", "glu"}


def activate(function: Any, x: StackedTensor) -> StackedTensor:
    """Applies one of Keras's activation functions."""
    if function.__name__ in _ALONG_THE_LAST_AXIS and x.layout is Layout.GROUPED:
        return StackedTensor(x.size, stacked=function(x.stacked))
    return x.map(function)


def is_keras_function(function: Any) -> bool:
    """Whether `function` is one of `keras.activations`."""
    return getattr(keras.activations, getattr(function, "__name__", ""), None) is function


@stacks(keras.layers.Activation, where=lambda layer: is_keras_function(layer.activation))
def activation(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(x)."""
    return activate(layer.activation, x)


@stacks(keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.Identity)
def elementwise(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Calls an element-wise layer without weights."""
    return x.map(layer.call)


@stacks(keras.layers.PReLU)
def prelu(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns max(x, 0) − α max(−x, 0)."""
    if layer.alpha.shape[-1] != x.channels:
        x = StackedTensor(x.size, stacked=x.stacked)
    x = x.without_sharing()
    alpha = values.broadcastable(layer.alpha, x)
    return x.like(ops.relu(x.value) - alpha * ops.relu(-x.value))


@stacks(layers.Dropout, layers.AlphaDropout, where=lambda layer: layer.noise_shape is None)
@stacks(layers.SpatialDropout1D)
@stacks(
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    where=lambda layer: layer.data_format == "channels_last",
)
def dropout(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Applies dropout, with each model's own rate and seed."""
    if not training:
        return x
    x = x.without_sharing()
    drawn = values.uniform(layer.seed_generator.state, layer.mask_shape(x.shape), x.layout)
    numbers = ops.unstack(values.get(layer.rate_variable), axis=-1)
    if x.layout is Layout.GROUPED:
        numbers = [ops.repeat(number, x.channels) for number in numbers]
    else:
        numbers = [ops.reshape(number, (-1,) + (1,) * x.rank) for number in numbers]
    return x.like(layer.drop(x.value, drawn, *numbers))
