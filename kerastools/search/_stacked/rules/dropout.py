"""Dropout, each model with its own rate and its own seed."""

from typing import Any

from keras import ops

from kerastools import layers
from kerastools.search._stacked.rules.registry import stacks
from kerastools.search._stacked.stacked_tensor import StackedTensor


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
