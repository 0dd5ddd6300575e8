"""Where Keras's optimizers keep what ours keep, so that one can go on where the other stopped.

Keras has no public name for the slots of an optimizer; `variables` lists them in an order that
depends on its options. `tests/_core/keras_private/test_optimizer_state.py` fails when one moves.
"""

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

_MOMENTS = {"momentum": "_momentums", "velocity": "_velocities"}
_ADAM = {**_MOMENTS, "largest": "_velocity_hats"}

# By Keras's class: our slot and Keras's attribute.
KERAS_SLOTS: dict[type, dict[str, str]] = {
    keras.optimizers.SGD: {"displacement": "momentums"},
    keras.optimizers.Adagrad: {"accumulator": "_accumulators"},
    keras.optimizers.RMSprop: {
        "mean_square": "_velocities",
        "velocity": "_momentums",
        "mean": "_average_gradients",
    },
    keras.optimizers.Adam: _ADAM,
    keras.optimizers.AdamW: _ADAM,
    keras.optimizers.Nadam: _MOMENTS,
    keras.optimizers.Adamax: {"momentum": "_m", "norm": "_u"},
}


def common_state(ours: Any, theirs: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the variables that hold the same in both, ours first; both are built alike."""
    yield ours._iterations, theirs._iterations
    for name in ("_accumulated_gradients", "_model_variables_moving_average"):
        yield from _both(getattr(ours, name, ()), getattr(theirs, name, ()))
    for slot, attribute in KERAS_SLOTS[type(theirs)].items():
        yield from _both(getattr(ours, f"_{slot}_slots", ()), getattr(theirs, attribute, ()))


def _both(ours: Any, theirs: Any) -> Iterator[tuple[Any, Any]]:
    # At momentum 0 Keras has an empty list.
    for a, b in zip(ours, theirs, strict=len(ours) == len(theirs)):
        if a is not None and b is not None:
            yield a, b


def momentum_product(optimizer: Any) -> Any:
    """Returns the variable in which Keras's `Nadam` multiplies up μ₁…μₜ, or `None`."""
    return getattr(optimizer, "_u_product", None)


def counts_batches(optimizer: Any) -> bool:
    """Whether Keras's optimizer counts batches, not updates, in its schedule or its average."""
    schedule = isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule)
    return bool(optimizer.gradient_accumulation_steps) and (schedule or optimizer.use_ema)


def copied(variable: Any) -> Any:
    """Returns the value of a variable in memory of its own, which JAX asks for."""
    return ops.copy(ops.convert_to_tensor(variable))
