"""Embeddings: the tables of all models are one."""

from typing import Any

import keras
from keras import ops

from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import StackedTensor


@stacks(
    keras.layers.Embedding,
    where=lambda layer: (
        not layer.mask_zero and not layer.lora_enabled and layer.quantization_mode is None
    ),
)
def embedding(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns the rows of the table that x names."""
    table = ops.reshape(values.get(layer.embeddings), (-1, layer.output_dim))
    first = ops.arange(x.size, dtype="int32") * layer.input_dim
    index = ops.cast(x.common[None] if x.held == "common" else x.members, "int32")
    # Below 0 it counts from the end of its own table; beyond it no row is to be found.
    index = ops.where(index < 0, index + layer.input_dim, index)
    inside = ops.logical_and(index >= 0, index < layer.input_dim)
    first = ops.reshape(first, (-1,) + (1,) * x.rank)
    index = ops.where(inside, index + first, x.size * layer.input_dim)
    return StackedTensor(x.size, members=ops.take(table, index, axis=0))
