"""Tensors and variables of K models: the arguments of every stacking rule."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import tensorflow as tf
from keras import ops


class Layout(Enum):
    """How a `StackedTensor` holds the tensors of K models; the value is its constructor argument.

    STACKED: (K, rows, ..., channels), one model after the other.
    GROUPED: (rows, ..., K·channels), the channels of all models side by side.
    SHARED: (rows, ..., channels), the same tensor for all models, held once.
    """

    STACKED = "stacked"
    GROUPED = "grouped"
    SHARED = "shared"


class StackedTensor:
    """The tensors of K models, each of shape (rows, ..., channels), in one `Layout`.

    In the grouped layout K convolutions are one with K groups, and K batch normalizations are one.
    Inputs are the same for all models, and shared. `stacked` and `grouped` convert on demand; a
    layer that works in any layout uses `value`, so that nothing is transposed between two
    convolutions.

    Args:
        size: K.
        stacked, grouped, shared: The tensor, in one of the layouts.
    """

    def __init__(self, size: int, *, stacked: Any = None, grouped: Any = None, shared: Any = None):
        self.size = size
        if stacked is not None:
            self.layout = Layout.STACKED
        else:
            self.layout = Layout.SHARED if grouped is None else Layout.GROUPED
        self._stacked, self._grouped, self.shared = stacked, grouped, shared

    @property
    def rank(self) -> int:
        """Number of axes of one model's tensor."""
        return len(self.value.shape) - (self.layout is Layout.STACKED)

    @property
    def value(self) -> Any:
        """The tensor in the layout in which it is held."""
        if self.layout is Layout.STACKED:
            return self._stacked
        return self.shared if self.layout is Layout.SHARED else self._grouped

    @property
    def channels(self) -> int:
        """Length of the last axis of one model's tensor."""
        return self.value.shape[-1] // (self.size if self.layout is Layout.GROUPED else 1)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Shape of one model's tensor."""
        shape = ops.shape(self.value)
        return (*shape[self.layout is Layout.STACKED : -1], self.channels)

    @property
    def stacked(self) -> Any:
        """The tensors one after the other, (K, rows, ..., channels)."""
        if self._stacked is None:
            if self.layout is Layout.SHARED:
                self._stacked = ops.broadcast_to(self.shared[None], (self.size, *self.shape))
            else:
                n = self.rank
                split = ops.reshape(self._grouped, (*self.shape[:-1], self.size, self.channels))
                self._stacked = ops.transpose(split, (n - 1, *range(n - 1), n))
        return self._stacked

    @property
    def grouped(self) -> Any:
        """The channels side by side, (rows, ..., K·channels)."""
        if self._grouped is None:
            n = self.rank
            if self.layout is Layout.SHARED:
                self._grouped = ops.tile(self.shared, (*(1,) * (n - 1), self.size))
            else:
                inner = ops.transpose(self._stacked, (*range(1, n), 0, n))
                shape = (*self.shape[:-1], self.size * self.channels)
                self._grouped = ops.reshape(inner, shape)
        return self._grouped

    def map(self, function: Callable[[Any], Any]) -> "StackedTensor":
        """Returns an element-wise `function` of the tensors."""
        return self.like(function(self.value))

    def like(self, value: Any) -> "StackedTensor":
        """Returns `value` as a stacked tensor of the same layout."""
        return StackedTensor(self.size, **{self.layout.value: value})

    def without_sharing(self) -> "StackedTensor":
        """Returns this tensor, stacked if it is shared: for layers whose output differs."""
        if self.layout is not Layout.SHARED:
            return self
        return StackedTensor(self.size, stacked=self.stacked)

    def unstack(self) -> list[Any]:
        """Returns the K tensors."""
        if self.layout is Layout.SHARED:
            return [self.shared] * self.size
        if self.layout is Layout.GROUPED:
            return list(ops.split(self.grouped, self.size, axis=-1))
        return list(ops.unstack(self.stacked, self.size))


def stack(tensors: Sequence[Any]) -> StackedTensor:
    """Returns K tensors, stacked."""
    return StackedTensor(len(tensors), stacked=ops.stack(tensors))


def group(tensors: Sequence[Any]) -> StackedTensor:
    """Returns K tensors, grouped."""
    return StackedTensor(len(tensors), grouped=_concatenate(*tensors))


@tf.custom_gradient
def _concatenate(*tensors: Any) -> tuple[Any, Any]:
    # TensorFlow's own gradient is K slices.
    return tf.concat(tensors, axis=-1), lambda g: tf.split(g, len(tensors), axis=-1)


class StackedValues:
    """The values of the template's variables in K models, within one step.

    Args:
        size: K.
        held: By id of the variable, its values (K, ...), or a list of K.
        same_seeds: Whether all models draw the same random numbers.
        traces: `SharedTraces` of the model's layers, or `None`.
    """

    def __init__(
        self, size: int, held: dict[int, Any], same_seeds: bool, traces: Any = None
    ) -> None:
        self.size = size
        self.traces = traces
        self.held = held
        self.same_seeds = same_seeds
        self.new: dict[int, Any] = {}

    def get(self, variable: Any) -> Any:
        """Returns the values of `variable`, (K, ...)."""
        now = self.now(variable)
        if isinstance(now, list):
            now = self.held[id(variable)] = tf.stack(now)
        return now

    def now(self, variable: Any) -> Any:
        """Returns the values of `variable` as they are held: (K, ...) or a list of K."""
        return self.new.get(id(variable), self.held[id(variable)])

    def unstack(self, variable: Any) -> list[Any]:
        """Returns the value of `variable` in each model, before this step."""
        now = self.held[id(variable)]
        return now if isinstance(now, list) else ops.unstack(self.get(variable), self.size)

    def set(self, variable: Any, values: Any) -> None:
        """Sets the values of `variable` from here on."""
        self.new[id(variable)] = values

    def broadcastable(self, variable: Any, x: StackedTensor) -> Any:
        """Returns the values of `variable`, shaped to broadcast against `x.value`.

        The last axes are aligned with the last, as NumPy does for one model's tensor.
        """
        shape = tuple(variable.shape)
        ones = (1,) * (x.rank - len(shape))
        if x.layout is Layout.GROUPED and len(shape) == 1:
            return ops.reshape(self.get(variable), (*ones, self.size * shape[0]))
        values = ops.reshape(self.get(variable), (self.size, *ones, *shape))
        if x.layout is Layout.GROUPED:
            return StackedTensor(self.size, stacked=values).grouped
        return values

    def uniform(self, state: Any, shape: Any, layout: Layout) -> Any:
        """Returns uniform random numbers in [0, 1), the same as each layer alone would draw."""
        seeds = self.get(state)
        self.set(state, seeds + tf.constant([0, 1], seeds.dtype))
        # As Keras does: TensorFlow takes seeds of 32 bits.
        seeds = tf.cast(tf.math.floormod(seeds, tf.int32.max - 1), "int32")
        if self.same_seeds:
            drawn = StackedTensor(self.size, shared=tf.random.stateless_uniform(shape, seeds[0]))
            return drawn.grouped if layout is Layout.GROUPED else drawn.shared[None]
        stacked = layout is Layout.STACKED
        draws = _uniform(seeds, tf.convert_to_tensor(shape), stacked)
        shape = tuple(n if isinstance(n, int) else None for n in shape)
        draws.set_shape((self.size, *shape) if stacked else (*shape[:-1], self.size * shape[-1]))
        return draws


@tf.function(autograph=False)
def _uniform(seeds: Any, shape: Any, stacked: bool) -> Any:
    """Returns uniform random numbers of each seed; a function, so that all layers share a trace."""
    # The same numbers as tf.random.stateless_uniform, in one operation instead of three.
    draws = [
        tf.raw_ops.StatelessRandomUniform(shape=shape, seed=seed) for seed in tf.unstack(seeds)
    ]
    return tf.stack(draws) if stacked else tf.concat(draws, axis=-1)
