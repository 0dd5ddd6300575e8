"""Stacking rules of element-wise layers: activations and dropout."""

from typing import Any

import keras
from keras import ops

from kerastools import layers
from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import StackedTensor

# Of Keras's functions, those that look at more than one number.
_ALONG_THE_LAST_AXIS = {"softmax", "log_softmax", "sparsemax", "glu"}


def activate(function: Any, x: StackedTensor) -> StackedTensor:
    """Returns one of Keras's activation functions of `x`."""
    if function.__name__ in _ALONG_THE_LAST_AXIS and x.held == "side":
        return StackedTensor(x.size, members=function(x.members))
    return x.map(function)


def is_keras_function(function: Any) -> bool:
    """Returns whether `function` is one of `keras.activations`."""
    return getattr(keras.activations, getattr(function, "__name__", ""), None) is function


@stacks(keras.layers.Activation, where=lambda layer: is_keras_function(layer.activation))
def activation(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(x)."""
    return activate(layer.activation, x)


@stacks(keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.Identity)
def elementwise(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns what the layer makes of each number."""
    return x.map(layer.call)


@stacks(keras.layers.PReLU)
def prelu(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns max(x, 0) − α max(−x, 0)."""
    if layer.alpha.shape[-1] != x.channels:
        x = StackedTensor(x.size, members=x.members)
    alpha = values.aligned(layer.alpha, x)
    return StackedTensor(
        x.size,
        **{_of_many(x): ops.relu(x.value) - alpha * ops.relu(-x.value)},
    )


def _of_many(x: StackedTensor) -> str:
    return "members" if x.held == "common" else x.held


@stacks(layers.Dropout, layers.AlphaDropout, where=lambda layer: layer.noise_shape is None)
@stacks(layers.SpatialDropout1D)
@stacks(
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    where=lambda layer: layer.data_format == "channels_last",
)
def dropout(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns x with units dropped."""
    if not training:
        return x
    if x.held == "common":
        x = StackedTensor(x.size, members=x.members)
    drawn = values.uniform(layer.seed_generator.state, layer.mask_shape(x.shape), x.held)
    numbers = ops.unstack(values.get(layer.rate_variable), axis=-1)
    if x.held == "side":
        numbers = [ops.repeat(number, x.channels) for number in numbers]
    else:
        numbers = [ops.reshape(number, (-1,) + (1,) * x.rank) for number in numbers]
    return x.like(layer.drop(x.value, drawn, *numbers))
