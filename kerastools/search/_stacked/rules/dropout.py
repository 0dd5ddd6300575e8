"""Dropout, each model with its own rate and its own seed."""

from typing import Any

from keras import ops

from kerastools.layers import AlphaDropout, Dropout, SpatialDropout
from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import StackedTensor


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
