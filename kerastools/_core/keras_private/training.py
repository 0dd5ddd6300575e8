"""What `fit` does and keeps to itself: where it begins, and what it calls."""

from typing import Any


def is_inside_fit(arguments: dict[str, Any]) -> bool:
    """Returns whether `fit` itself calls `evaluate`, for its validation, with these arguments.

    It then passes what it has prepared once for all epochs; nothing public tells it.
    """
    return bool(arguments.get("_use_cached_eval_dataset", False))


def begin_at_epoch(model: Any, epoch: int | None) -> None:
    """Lets the `fit` that is beginning go on at `epoch`, as `BackupAndRestore` does.

    Only from a callback's `on_train_begin`; there is no public way. It holds for every later `fit`
    too, until it is called with None.
    """
    model._initial_epoch = epoch


def is_detached(variable: Any) -> bool:
    """Returns whether the value of `variable` is held by a running `fit` on JAX.

    Within an epoch the trainer takes the values out of the variables and puts them back at its end
    or in `model.jax_state_sync()`; what is assigned in between is lost. Nothing public says so.
    """
    return variable._value is None
