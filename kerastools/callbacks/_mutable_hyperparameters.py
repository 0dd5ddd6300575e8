"""Which numbers of an optimizer a callback may set."""

from typing import Any

import keras

from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


def innermost(optimizer: Any) -> Any:
    """Returns the optimizer inside `LossScaleOptimizer` and the like."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def live_numbers(optimizer: Any) -> list[str]:
    """Returns the names of the numbers that act on the compiled step when they are set."""
    if isinstance(optimizer, MutableOptimizer):
        return optimizer.mutable_hyperparameters
    # Keras bakes all others into the trace, where setting them does nothing.
    fixed = not isinstance(optimizer.learning_rate, keras.Variable)
    return [] if fixed else ["learning_rate"]


def require_live(optimizer: Any, name: str, caller: str) -> None:
    """Raises `ValueError` unless setting `optimizer.name` acts on the compiled step."""
    live = live_numbers(optimizer)
    if name not in live:
        raise ValueError(
            f"{caller} cannot set {name!r} of this {type(optimizer).__name__} while it trains. "
            f"What can be set: {', '.join(live) or 'nothing'}. The optimizers of "
            "kerastools.optimizers let every number be set that was given as a number."
        )
