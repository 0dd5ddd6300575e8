"""The values of a model's variables for K models, within one step."""

from typing import Any

import tensorflow as tf
from keras import ops

from kerastools.search._stacked.stacked_tensor import StackedTensor


class StackedValues:
    """What the variables of the template hold in each of K models, and what they shall hold next.

    Args:
        size: K.
        held: By id of the variable, its values (K, ...), or a list of K.
        common_seeds: Whether all models draw the same random numbers.
        traces: The functions of layers that compute alike, or `None`.
    """

    def __init__(
        self, size: int, held: dict[int, Any], common_seeds: bool, traces: Any = None
    ) -> None:
        self.size = size
        self.traces = traces
        self.held = held
        self.common_seeds = common_seeds
        self.new: dict[int, Any] = {}

    def get(self, variable: Any) -> Any:
        """Returns the values of `variable`, (K, ...)."""
        now = self.now(variable)
        if isinstance(now, list):
            now = self.held[id(variable)] = tf.stack(now)
        return now

    def now(self, variable: Any) -> Any:
        """Returns the values of `variable`, (K, ...) or a list of K, as they are held."""
        return self.new.get(id(variable), self.held[id(variable)])

    def each(self, variable: Any) -> list[Any]:
        """Returns the values of `variable` in each model."""
        now = self.held[id(variable)]
        return now if isinstance(now, list) else ops.unstack(self.get(variable), self.size)

    def set(self, variable: Any, values: Any) -> None:
        """Says what `variable` holds from now on."""
        self.new[id(variable)] = values

    def aligned(self, variable: Any, x: StackedTensor) -> Any:
        """Returns the values of `variable` so that they are broadcast against `x.value`.

        As NumPy would align them with one model's tensor: the last axes with the last.
        """
        shape = tuple(variable.shape)
        ones = (1,) * (x.rank - len(shape))
        if x.held == "side" and len(shape) == 1:
            return ops.reshape(self.get(variable), (*ones, self.size * shape[0]))
        values = ops.reshape(self.get(variable), (self.size, *ones, *shape))
        return StackedTensor(self.size, members=values).side if x.held == "side" else values

    def uniform(self, state: Any, shape: Any, held: str) -> Any:
        """Returns numbers in [0, 1), those that a layer alone would draw from its `state`."""
        seeds = self.get(state)
        self.set(state, seeds + tf.constant([0, 1], seeds.dtype))
        # As Keras does: TensorFlow takes seeds of 32 bits.
        seeds = tf.cast(tf.math.floormod(seeds, tf.int32.max - 1), "int32")
        if self.common_seeds:
            drawn = StackedTensor(self.size, common=tf.random.stateless_uniform(shape, seeds[0]))
            return drawn.side if held == "side" else drawn.common[None]
        draws = _uniform(seeds, tf.convert_to_tensor(shape), held)
        shape = tuple(n if isinstance(n, int) else None for n in shape)
        of_members = held == "members"
        draws.set_shape((self.size, *shape) if of_members else (*shape[:-1], self.size * shape[-1]))
        return draws


@tf.function(autograph=False)
def _uniform(seeds: Any, shape: Any, held: str) -> Any:
    """Returns numbers in [0, 1) of each seed; a function, so that many layers trace it once."""
    # The same numbers as tf.random.stateless_uniform, in one operation instead of three.
    draws = [
        tf.raw_ops.StatelessRandomUniform(shape=shape, seed=seed) for seed in tf.unstack(seeds)
    ]
    return tf.stack(draws) if held == "members" else tf.concat(draws, axis=-1)
