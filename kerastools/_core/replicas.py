"""Models and steps under a `tf.distribute` strategy; plain arithmetic without one, and on JAX."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import keras
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import (
    is_distributed,
    num_replicas,
    strategy_scope,
)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def in_strategy_scope(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Returns `function` run in the scope of the strategy that its first argument was made in.

    What it makes from the model, layers, optimizers and other models, is then trained with it.
    """
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def scoped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with strategy_scope(args[0] if args else kwargs.get(first)):
            return function(*args, **kwargs)

    return scoped


def sum_over_replicas(values: Sequence[Any]) -> list[Any]:
    """Returns each of `values` summed over the replicas; called in a step by all of them."""
    context = _context()
    return list(values) if context is None else list(context.all_reduce("SUM", list(values)))


def on_every_replica(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` run by every replica of the strategy in whose scope this is called.

    All are given the same arguments, and the first one's result is returned.
    """
    if keras.backend.backend() != "tensorflow" or not is_distributed():
        return function
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    return lambda *args: strategy.experimental_local_results(strategy.run(function, args))[0]


def mean_over_replicas(values: Any, weights: Any = None) -> Any:
    """Returns this replica's part of Σ w ⊗ v / Σ w over the rows of all; the parts add up to it.

    So a loss that is returned as a scalar, which Keras takes as it is, has the gradient that it has
    on one device with all rows. The weights w are 1 by default.
    """
    if weights is None:
        if num_replicas() == 1:
            return ops.mean(values)
        weights = ops.ones_like(values)
    weights = ops.cast(weights, values.dtype)
    (total,) = sum_over_replicas([ops.sum(weights)])
    # A small batch may have no weight.
    return ops.sum(weights * values) / ops.maximum(total, 1e-7)


def drawn_for_rows(draw: Callable[[Any], Any], shape: Sequence[Any]) -> Any:
    """Returns `draw(shape)`, the first axis being the rows; on a replica its part of those of all.

    The seed is the same on every replica. Each draws for the rows of all and keeps its own, so that
    every row has the random numbers that it has on one device.
    """
    context = _context()
    if context is None:
        return draw(tuple(shape))
    rank = context.replica_id_in_sync_group
    mine = ops.one_hot(rank, num_replicas(), dtype="float32") * ops.cast(shape[0], "float32")
    (rows,) = sum_over_replicas([mine])
    ends = ops.cast(ops.cumsum(rows), "int32")
    drawn = draw((ends[-1], *shape[1:]))
    return drawn[ends[rank] - shape[0] : ends[rank]]


def _context() -> Any:
    """Returns the replica context of the step that is running, if there are several replicas."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
