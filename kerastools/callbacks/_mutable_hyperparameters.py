"""Which hyperparameters of an optimizer a callback may set, and giving them back."""

from typing import Any

import keras
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import learning_rate_source
from kerastools._core.keras_private.training import FitEnd, require_sole_owner
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


def borrow(callback: Any, *names: str) -> FitEnd:
    """Returns what gives the hyperparameters that `callback` sets their values of now back.

    Raises:
        ValueError: If one is not mutable, or another callback of the same `fit` sets it.
    """
    optimizer = innermost(callback.model.optimizer)
    for name in names:
        require_live(optimizer, name, caller=type(callback).__name__)
    require_sole_owner(callback)
    sources = [
        learning_rate_source(optimizer)
        if name == "learning_rate"
        else getattr(optimizer, f"_{name}")
        for name in names
    ]
    before = [(source, ops.convert_to_numpy(source).copy()) for source in sources]

    def give_back() -> None:
        for source, value in before:
            source.assign(value)

    return FitEnd(callback.model, give_back)
