"""Layers that are a product with a matrix."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools.search._stack_rules._activation import activate, is_keras_function
from kerastools.search._stack_rules._registry import stacks
from kerastools.search._stacked_tensor import StackedTensor


def _is_plain(layer: Any) -> bool:
    plain = not getattr(layer, "lora_enabled", False) and layer.quantization_mode is None
    return plain and is_keras_function(layer.activation)


@stacks(keras.layers.Dense, where=_is_plain)
def dense(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(xW + b)."""
    kernel = values.get(layer.kernel)
    rows = x.common[None] if x.held == "common" else x.members
    shape = ops.shape(rows)
    if x.rank != 2:
        rows = ops.reshape(rows, (shape[0], -1, shape[-1]))
    product = _product(rows, kernel, x.size)
    if x.rank != 2:
        product = ops.reshape(product, (x.size, *shape[1:-1], layer.units))
    y = StackedTensor(x.size, members=product)
    if layer.bias is not None:
        y = y.map(lambda value: value + values.aligned(layer.bias, y))
    return activate(layer.activation, y)


@stacks(keras.layers.EinsumDense, where=_is_plain)
def einsum_dense(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(einsum(equation, x, W) + b), with one more letter for the models."""
    left, right = layer.equation.replace(" ", "").split("->")
    inputs, weights = left.split(",")
    k = next(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in layer.equation)
    one = "" if x.held == "common" else k
    value = x.common if x.held == "common" else x.members
    product = ops.einsum(f"{one}{inputs},{k}{weights}->{k}{right}", value, values.get(layer.kernel))
    y = StackedTensor(x.size, members=product)
    if layer.bias is not None:
        y = y.map(lambda value: value + values.aligned(layer.bias, y))
    return activate(layer.activation, y)


def _product(rows: Any, kernels: Any, size: int) -> Any:
    """Returns the product of the rows with the kernel of each model."""
    if tf.config.list_logical_devices("GPU"):
        return ops.matmul(rows, kernels)
    # TensorFlow's product of single matrices is up to twice as fast on a CPU as its batched one.
    rows = ops.unstack(rows, rows.shape[0]) if rows.shape[0] > 1 else [rows[0]] * size
    kernels = ops.unstack(kernels, size)
    return ops.stack([ops.matmul(r, w) for r, w in zip(rows, kernels, strict=True)])
