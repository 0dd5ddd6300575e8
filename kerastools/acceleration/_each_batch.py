"""Callbacks between the groups of steps that run in one call."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kerastools._core.keras_private.patched import patched

_HOOKS = {
    "on_train_batch_begin": "train",
    "on_train_batch_end": "train",
    "on_batch_begin": "train",
    "on_batch_end": "train",
    "on_test_batch_begin": "test",
    "on_test_batch_end": "test",
}


class Synchronous(keras.callbacks.Callback):
    """Does nothing, but keeps Keras from handing batch hooks to a thread at every step."""

    needs_every_batch = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        pass

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


def needs_every_batch(callback: Any, kind: str) -> bool:
    """Tells whether a callback must act between any two batches of training or testing.

    Keras's own callbacks work at the granularity of `steps_per_execution`. Any other that
    implements a batch hook is taken to need each batch, unless its `needs_every_batch` is False.
    """
    declared = getattr(callback, "needs_every_batch", None)
    if declared is not None:
        return bool(declared)
    hooks = [getattr(callback, name) for name, of in _HOOKS.items() if of == kind]
    return any(not (hook.__module__ or "").startswith("keras.") for hook in hooks)


def may_end_early(callback: Any) -> bool:
    """Tells whether a callback may end a sound training: whether its code names `stop_training`."""
    if isinstance(callback, keras.callbacks.TerminateOnNaN):
        return False
    holders = [*type(callback).__mro__, callback]  # `LambdaCallback` keeps functions itself.
    functions = [f for holder in holders for f in vars(holder).values() if inspect.isfunction(f)]
    return any("stop_training" in f.__code__.co_names for f in functions)


@contextlib.contextmanager
def between_groups(callbacks: list[Any], model: Any) -> Iterator[None]:
    """Lets batch hooks through only at the borders of groups, as `steps_per_execution` does.

    The hooks are replaced on the callback objects, which stay the objects that the user passed.
    """
    with contextlib.ExitStack() as patches:
        for callback in callbacks:
            for name, kind in _HOOKS.items():
                hook = getattr(callback, name)
                if getattr(hook, "__func__", None) is not getattr(keras.callbacks.Callback, name):
                    gated = functools.partial(_at_borders, model, f"{kind}_function")
                    patches.enter_context(patched(callback, **{name: gated}))
        yield


def _at_borders(
    model: Any, function: str, hook: Callable[..., Any], batch: int, logs: Any = None
) -> None:
    if not getattr(getattr(model, function), "ahead", 0):
        hook(batch, logs)
