"""Stacking rules of Dense, EinsumDense and Embedding: layers with one matrix."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools.search._stacked.rules.elementwise import activate, is_keras_function
from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import Layout, StackedTensor, group, stack


def _is_plain(layer: Any) -> bool:
    plain = not getattr(layer, "lora_enabled", False) and layer.quantization_mode is None
    return plain and is_keras_function(layer.activation)


@stacks(keras.layers.Dense, where=_is_plain)
def dense(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(xW + b)."""
    if tf.config.list_logical_devices("GPU"):
        y = _batched(layer, values, x)
    else:
        # On a CPU, products of single matrices are up to twice as fast as a batched one.
        kernels = values.unstack(layer.kernel)
        products = [_product(r, w) for r, w in zip(x.unstack(), kernels, strict=True)]
        y = (group if x.rank == 2 else stack)(products)
    if layer.bias is not None:
        y = y.map(lambda value: value + values.broadcastable(layer.bias, y))
    return activate(layer.activation, y)


@stacks(keras.layers.EinsumDense, where=_is_plain)
def einsum_dense(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns f(einsum(equation, x, W) + b), with one more index for the models."""
    left, right = layer.equation.replace(" ", "").split("->")
    inputs, weights = left.split(",")
    k = next(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in layer.equation)
    one = "" if x.layout is Layout.SHARED else k
    value = x.shared if x.layout is Layout.SHARED else x.stacked
    product = ops.einsum(f"{one}{inputs},{k}{weights}->{k}{right}", value, values.get(layer.kernel))
    y = StackedTensor(x.size, stacked=product)
    if layer.bias is not None:
        y = y.map(lambda value: value + values.broadcastable(layer.bias, y))
    return activate(layer.activation, y)


def _product(rows: Any, kernel: Any) -> Any:
    if len(rows.shape) == 2:
        return ops.matmul(rows, kernel)
    shape = ops.shape(rows)
    product = ops.matmul(ops.reshape(rows, (-1, shape[-1])), kernel)
    return ops.reshape(product, (*shape[:-1], kernel.shape[-1]))


def _batched(layer: Any, values: Any, x: StackedTensor) -> StackedTensor:
    rows = x.shared[None] if x.layout is Layout.SHARED else x.stacked
    flat = ops.reshape(rows, (rows.shape[0], -1, rows.shape[-1]))
    product = ops.matmul(flat, values.get(layer.kernel))
    shape = (x.size, *ops.shape(rows)[1:-1], layer.units)
    return StackedTensor(x.size, stacked=ops.reshape(product, shape))


@stacks(
    keras.layers.Embedding,
    where=lambda layer: (
        not layer.mask_zero and not layer.lora_enabled and layer.quantization_mode is None
    ),
)
def embedding(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns rows of the tables, which are concatenated to one."""
    table = ops.reshape(values.get(layer.embeddings), (-1, layer.output_dim))
    first = ops.arange(x.size, dtype="int32") * layer.input_dim
    index = ops.cast(x.shared[None] if x.layout is Layout.SHARED else x.stacked, "int32")
    # As in Keras, a negative index counts from the end of the table, and one beyond it gives NaN.
    index = ops.where(index < 0, index + layer.input_dim, index)
    inside = ops.logical_and(index >= 0, index < layer.input_dim)
    first = ops.reshape(first, (-1,) + (1,) * x.rank)
    index = ops.where(inside, index + first, x.size * layer.input_dim)
    return StackedTensor(x.size, stacked=ops.take(table, index, axis=0))
