"""Stacking rules of element-wise layers: activations and dropout."""

from typing import Any

import keras
from keras import ops

from kerastools.layers import AlphaDropout, Dropout, SpatialDropout
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


@stacks(Dropout, AlphaDropout, where=lambda layer: layer.noise_shape is None)
@stacks(SpatialDropout, where=lambda layer: layer.data_format == "channels_last")
def dropout(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns x with units dropped."""
    if not training:
        return x
    if x.held == "common":
        x = StackedTensor(x.size, members=x.members)
    shape = x.shape
    if isinstance(layer, SpatialDropout):
        shape = (shape[0], *(1,) * (len(shape) - 2), shape[-1])
    drawn = values.uniform(layer.seed_generator.state, shape, x.held)
    rate = ops.reshape(values.get(layer.rate), (-1,) + (1,) * x.rank)
    if x.held == "side":
        rate = ops.broadcast_to(ops.reshape(rate, (-1, 1)), (x.size, x.channels))
        rate = ops.reshape(rate, (-1,))
    return x.like(layer.drop(x.value, drawn < 1.0 - rate, rate))
