"""What `compile` was given and where `fit` begins, which Keras keeps to itself."""

from typing import Any


def compile_arguments(model: Any) -> dict[str, Any]:
    """Returns the arguments with which `model` was compiled, the very objects, and its optimizer.

    `get_compile_config()` is public but gives them serialised: a function of the user's would be
    lost, and metrics would come back as others than those that the user holds.
    """
    arguments = dict(model._compile_config.config)
    # Under mixed_float16 the model's optimizer wraps the one that was passed.
    return arguments | {"optimizer": model.optimizer}


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
