"""Layers that compute for many models at once; their weights are stacked on a leading axis.

A tensor of K models has shape (K, rows, ...). Each function computes, for every k, what the layer
computes with the weights of model k.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kerastools.layers import Dropout

# Given a variable of the layer, its values for all models; and the way to replace them.
Values = Any


def dense(layer: Any, values: Values, x: Any, training: bool) -> Any:
    """Returns activation(xW + b)."""
    shape = ops.shape(x)
    rows = x if len(shape) == 3 else ops.reshape(x, (shape[0], -1, shape[-1]))
    y = ops.matmul(rows, values.get(layer.kernel))
    if layer.bias is not None:
        y = y + ops.expand_dims(values.get(layer.bias), 1)
    if len(shape) != 3:
        y = ops.reshape(y, (*shape[:-1], layer.units))
    return layer.activation(y)


def batch_normalization(layer: Any, values: Values, x: Any, training: bool) -> Any:
    """Returns γ(x − μ)/√(σ² + ε) + β, with the batch's statistics in training."""
    rows = tuple(range(1, len(x.shape) - 1))
    mean, variance = values.get(layer.moving_mean), values.get(layer.moving_variance)
    if training and layer.trainable:
        moments = ops.moments(x, axes=rows)
        for variable, old, new in zip(
            (layer.moving_mean, layer.moving_variance), (mean, variance), moments, strict=True
        ):
            values.set(variable, old * layer.momentum + new * (1.0 - layer.momentum))
        mean, variance = moments
    scale = ops.rsqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * values.get(layer.gamma)
    shift = -mean * scale
    if layer.beta is not None:
        shift = shift + values.get(layer.beta)
    return x * ops.expand_dims(scale, rows) + ops.expand_dims(shift, rows)


def dropout(layer: Any, values: Values, x: Any, training: bool) -> Any:
    """Returns x with units dropped, each model with its own rate and its own seed."""
    if not training:
        return x
    drawn = values.uniform(layer.seed_generator.state, ops.shape(x)[1:])
    keep = 1.0 - values.get(layer.rate)
    keep = ops.reshape(keep, (-1,) + (1,) * (len(x.shape) - 1))
    return x * ops.where(drawn < keep, 1.0 / ops.maximum(keep, 1e-7), 0.0)


def flatten(layer: Any, values: Values, x: Any, training: bool) -> Any:
    """Returns x with each row flattened."""
    return ops.reshape(x, (*ops.shape(x)[:2], -1))


def elementwise(layer: Any, values: Values, x: Any, training: bool) -> Any:
    """Returns what the layer makes of each number, or of each last axis."""
    return layer.call(x)


_CALLS: dict[type, Callable[..., Any]] = {
    keras.layers.InputLayer: elementwise,
    keras.layers.Dense: dense,
    keras.layers.BatchNormalization: batch_normalization,
    keras.layers.Activation: elementwise,
    keras.layers.ReLU: elementwise,
    keras.layers.LeakyReLU: elementwise,
    keras.layers.ELU: elementwise,
    keras.layers.Flatten: flatten,
    Dropout: dropout,
}


def stacked_call(layer: Any) -> Callable[..., Any]:
    """Returns the function that computes `layer` for many models."""
    return _CALLS[type(layer)]


def why_layer_cannot_stack(layer: Any) -> str | None:
    """Returns what hinders `layer` from being stacked, or `None`."""
    name = f"layer {layer.name!r}"
    if type(layer) not in _CALLS:
        return f"{name} is a {type(layer).__name__}"
    if layer.compute_dtype != "float32" or layer.variable_dtype != "float32":
        return f"{name} computes in {layer.compute_dtype}"
    activation = getattr(layer, "activation", None)
    if activation is not None and not _is_keras_function(activation):
        return f"{name} has an activation of its own"
    if getattr(layer, "activity_regularizer", None) is not None:
        return f"{name} has an activity regularizer"
    if isinstance(layer, keras.layers.Dense) and layer.kernel is not layer.variables[0]:
        return f"{name} is quantised or has LoRA"
    if isinstance(layer, keras.layers.BatchNormalization):
        if layer.axis not in (-1, len(layer.output.shape) - 1):
            return f"{name} normalises axis {layer.axis}"
        if getattr(layer, "renorm", False):
            return f"{name} renormalises"
    if isinstance(layer, Dropout) and layer.noise_shape is not None:
        return f"{name} has a noise_shape"
    if isinstance(layer, keras.layers.Flatten) and layer.data_format != "channels_last":
        return f"{name} has channels first"
    return None


def _is_keras_function(activation: Any) -> bool:
    # All of keras.activations work element by element, or along the last axis.
    return getattr(keras.activations, getattr(activation, "__name__", ""), None) is activation
