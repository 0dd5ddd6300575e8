"""Tensors and variables of K models: the arguments of every stacking rule."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from keras import ops


class StackedTensor:
    """The tensors of K models, each of shape (rows, ..., channels).

    They lie behind one another, `members` (K, rows, ..., channels), or the channels of all models
    side by side, `side` (rows, ..., K·channels), where K convolutions are one with K groups and K
    batch normalisations one. What is the same for all models, as the inputs are, is `common` and
    takes the space of one. Whichever is asked for is made of what is held; a layer that does not
    care works on what is held, so that nothing is moved between two convolutions.
    """

    def __init__(self, size: int, *, members: Any = None, side: Any = None, common: Any = None):
        self.size = size
        self.held = "members" if members is not None else "side" if side is not None else "common"
        self._members, self._side, self.common = members, side, common

    @property
    def rank(self) -> int:
        """Number of axes of one model's tensor."""
        return len(self.value.shape) - (self.held == "members")

    @property
    def value(self) -> Any:
        """What is held."""
        held = {"members": self._members, "side": self._side, "common": self.common}
        return held[self.held]

    @property
    def channels(self) -> int:
        """Length of the last axis of one model's tensor."""
        return self.value.shape[-1] // (self.size if self.held == "side" else 1)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Shape of one model's tensor."""
        shape = ops.shape(self.value)
        return (*shape[self.held == "members" : -1], self.channels)

    @property
    def members(self) -> Any:
        """The tensors behind one another, (K, rows, ..., channels)."""
        if self._members is None:
            if self.held == "common":
                self._members = ops.broadcast_to(self.common[None], (self.size, *self.shape))
            else:
                n = self.rank
                apart = ops.reshape(self._side, (*self.shape[:-1], self.size, self.channels))
                self._members = ops.transpose(apart, (n - 1, *range(n - 1), n))
        return self._members

    @property
    def side(self) -> Any:
        """The channels of all side by side, (rows, ..., K·channels)."""
        if self._side is None:
            n = self.rank
            if self.held == "common":
                self._side = ops.tile(self.common, (*(1,) * (n - 1), self.size))
            else:
                inner = ops.transpose(self._members, (*range(1, n), 0, n))
                shape = (*self.shape[:-1], self.size * self.channels)
                self._side = ops.reshape(inner, shape)
        return self._side

    def map(self, function: Callable[[Any], Any]) -> "StackedTensor":
        """Returns `function` of each number."""
        return self.like(function(self.value))

    def like(self, value: Any) -> "StackedTensor":
        """Returns `value`, which lies as this tensor does."""
        return StackedTensor(self.size, **{self.held: value})

    def each(self) -> list[Any]:
        """Returns the K tensors."""
        if self.held == "common":
            return [self.common] * self.size
        if self.held == "side":
            return list(ops.split(self.side, self.size, axis=-1))
        return list(ops.unstack(self.members, self.size))


def joined(tensors: Sequence[Any]) -> StackedTensor:
    """Returns K tensors as one, behind one another."""
    return StackedTensor(len(tensors), members=ops.stack(tensors))


def beside(tensors: Sequence[Any]) -> StackedTensor:
    """Returns K tensors as one, side by side."""
    return StackedTensor(len(tensors), side=_concatenated(*tensors))


@tf.custom_gradient
def _concatenated(*tensors: Any) -> tuple[Any, Any]:
    # TensorFlow's own gradient is K slices.
    return tf.concat(tensors, axis=-1), lambda g: tf.split(g, len(tensors), axis=-1)


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
