"""What `fit` does and keeps to itself: where it begins, and what it calls."""

import inspect
from typing import Any

from keras.src.trainers.epoch_iterator import EpochIterator


def is_inside_fit(arguments: dict[str, Any]) -> bool:
    """Returns whether `fit` itself calls `evaluate`, for its validation, with these arguments.

    It then passes what it has prepared once for all epochs; nothing public tells it.
    """
    return bool(arguments.get("_use_cached_eval_dataset", False))


def symbolic_build(model: Any, batch: Any) -> None:
    """Creates all variables of `model`, its losses, metrics and optimizer, and computes nothing.

    The `fit` of JAX and PyTorch begins with it. Variables keep their values and nothing of the
    user's runs but to be traced. Public is only to call the model and its losses, which both do.
    """
    model._symbolic_build(data_batch=batch)


def steps_until_save(callback: Any) -> int | None:
    """Returns after how many steps a callback of Keras's with an integer `save_freq` acts.

    It counts them where nothing public tells; None for all others.
    """
    seen, every = (getattr(callback, n, None) for n in (_STEPS_SEEN, "save_freq"))
    return every - seen if isinstance(every, int) and isinstance(seen, int) else None


_STEPS_SEEN = "_batches_seen_since_last_saving"


def begin_at_epoch(model: Any, epoch: int | None) -> None:
    """Lets the `fit` that is beginning go on at `epoch`, as `BackupAndRestore` does.

    Only from a callback's `on_train_begin`; there is no public way. It holds for every later `fit`
    too, until it is called with None.
    """
    model._initial_epoch = epoch


def data_epoch() -> int | None:
    """Returns which epoch the `fit` that calls takes its data for the next to be.

    Keras 3.16 shuffles by this number, which counts from the start of each `fit`; None before,
    and for data that Keras does not shuffle. A callback has no public way to the data.
    """
    return next((adapter._epoch for adapter in _adapters()), None)


def set_data_epoch(epoch: int | None) -> None:
    """Lets the `fit` that calls take its data as in this epoch, and those that follow."""
    for adapter in _adapters():
        if epoch is not None:
            adapter._epoch = epoch


def _adapters() -> list[Any]:
    """Returns the adapters that count epochs of the innermost `fit` that is running."""
    frame = inspect.currentframe()
    while frame is not None:
        iterator = frame.f_locals.get("epoch_iterator")
        if isinstance(iterator, EpochIterator):
            adapter = iterator.data_adapter
            found = getattr(adapter, "adapters", [adapter])
            return [part for part in found if hasattr(part, "_epoch")]
        frame = frame.f_back
    return []


def is_detached(variable: Any) -> bool:
    """Returns whether the value of `variable` is held by a running `fit` on JAX.

    Within an epoch the trainer takes the values out of the variables and puts them back at its end
    or in `model.jax_state_sync()`; what is assigned in between is lost. Nothing public says so.
    """
    return variable._value is None


def batch_moments(layer: Any, inputs: Any, mask: Any) -> tuple[Any, Any]:
    """Returns mean and variance as a `BatchNormalization` takes them of a batch in training.

    Its own method knows of masks and of replicas; calling the layer would move its statistics.
    """
    mean, variance = layer._moments(inputs, mask)
    return mean, variance
