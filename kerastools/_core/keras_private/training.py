"""What `fit` does and keeps to itself: where it begins, what it calls, and that it has ended."""

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.trainers.epoch_iterator import EpochIterator

from kerastools._core.keras_private.patched import patched


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
    iterator = _local("epoch_iterator", EpochIterator)
    adapter = getattr(iterator, "data_adapter", None)
    found = getattr(adapter, "adapters", [adapter])
    return [part for part in found if hasattr(part, "_epoch")]


def _local(name: str, kind: type) -> Any:
    """Returns the innermost local variable of that name and class in what calls, or None."""
    frame: Any = inspect.currentframe()
    # Not of this frame: its locals would hold the frame itself, and with it all that it found.
    while (frame := frame.f_back) is not None:
        if isinstance(frame.f_locals.get(name), kind):
            return frame.f_locals[name]
    return None


def model_that_builds(optimizer: Any) -> Any:
    """Returns the model that is building its `optimizer` now, in `fit` or when loaded, or `None`.

    Keras gives an optimizer the variables alone.
    """
    frame: Any = inspect.currentframe()
    while (frame := frame.f_back) is not None:
        model = frame.f_locals.get("self")
        if isinstance(model, keras.Model) and holds(getattr(model, "optimizer", None), optimizer):
            return model
    return None


def holds(outer: Any, optimizer: Any) -> bool:
    """Returns whether `outer` is `optimizer`, or wraps it."""
    while outer is not None and outer is not optimizer:
        outer = getattr(outer, "inner_optimizer", None)
    return outer is not None


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


def fit_callbacks() -> list[Any]:
    """Returns all callbacks of the innermost `fit` that is running, in their order.

    A callback has no public way to the others.
    """
    found = _callback_list()
    return [] if found is None else list(found.callbacks)


def _callback_list() -> Any:
    return _local("self", keras.callbacks.CallbackList)


def numbers_set_by(callback: Any) -> set[str]:
    """Returns the names of what `callback` sets while a model trains, as far as is known."""
    rates = keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau
    return {"learning_rate"} if isinstance(callback, rates) else set(getattr(callback, "sets", ()))


def require_sole_owner(callback: Any, beside: tuple[type, ...] = ()) -> None:
    """Raises `ValueError` if another callback of the same `fit` sets what `callback` sets.

    Those of the classes `beside` are left out.
    """
    for other in fit_callbacks():
        both = numbers_set_by(callback) & numbers_set_by(other)
        if both and other is not callback and not isinstance(other, beside):
            raise ValueError(
                f"{type(callback).__name__} and {type(other).__name__} both set "
                f"{', '.join(sorted(both))}, and one would overwrite the other. Received both in "
                "the callbacks of one fit. Leave one of them out."
            )


class FitEnd:
    """Calls `give_back` once, when the `fit` that is running has ended, however it ends.

    A callback calls the object in `on_train_end`. After Ctrl-C or an exception Keras calls no hook:
    then `give_back` is called when the list of callbacks of that `fit` is dropped, which is as soon
    as nothing holds the traceback, and at the latest when the next `fit` of the model begins.
    """

    def __init__(self, model: Any, give_back: Callable[[], Any]) -> None:
        self._give_back: Callable[[], Any] | None = give_back
        self._patch = patched(model, fit=self._next_fit)
        callbacks = _callback_list()
        if callbacks is not None:
            weakref.finalize(callbacks, self._dropped).atexit = False

    def __call__(self) -> None:
        """Gives back, if that has not been done."""
        self._patch.undo()
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def _next_fit(self, fit: Any, *args: Any, **kwargs: Any) -> Any:
        self()
        return fit(*args, **kwargs)

    def _dropped(self) -> None:
        # The garbage collector may come while a function is traced: an assignment would be traced.
        if self._give_back is None or in_stateless_scope():
            return
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            with tf.init_scope():
                self()
        elif keras.backend.backend() == "jax":
            import jax

            with jax.ensure_compile_time_eval():
                self()
        else:
            self()


def keep_changes(model: Any) -> None:
    """Lets what a callback has assigned within an epoch on JAX outlast the epoch.

    Where the data end without having told their length, Keras calls `on_train_batch_begin` for a
    step that never comes, and then puts back the state behind the last step, by position.
    """
    if getattr(model, "_jax_state", None):
        names = [f"{kind}_variables" for kind in ("trainable", "non_trainable", "optimizer")]
        names.append("metrics_variables")
        state = model._get_jax_state(**dict.fromkeys(names, True))
        model._jax_state = dict(zip(names, state, strict=True))


class StepValues:
    """Gives variables of the optimizer other values inside the training step only.

    Callbacks, logs and saved files see the variables' own values, and nothing is compiled again
    when the values inside change. With several steps in one call, they hold for the call.

    Args:
        model: A compiled model.
        values: Returns pairs of a variable and a function, which takes the variable's own value and
            returns that inside; it is called before each call of the step.
    """

    def __init__(
        self, model: Any, values: Callable[[], list[tuple[Any, Callable[[float], float]]]]
    ) -> None:
        self._model, self._values = model, values
        self._patch = patched(model, make_train_function=self._make)
        self._wrap()

    def undo(self) -> None:
        """Lets the step have the variables' own values again."""
        self._patch.undo()
        if isinstance(self._model.train_function, _Step):
            self._model.train_function = self._model.train_function.function

    def _make(self, make_train_function: Any, force: bool = False) -> Any:
        make_train_function(force)
        self._wrap()
        return self._model.train_function

    def _wrap(self) -> None:
        function = self._model.train_function
        if function is not None and not isinstance(function, _Step):
            self._model.train_function = _Step(function, self._model, self._values)


class _Step:
    """What stands in place of `model.train_function`."""

    def __init__(self, function: Any, model: Any, values: Any) -> None:
        self.function, self._model, self._values = function, model, values

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)

    def __call__(self, *args: Any) -> Any:
        changes = self._values()
        if not changes:
            return self.function(*args)
        call = self._on_jax if keras.backend.backend() == "jax" else self._with_assignments
        return call(changes, *args)

    def _with_assignments(self, changes: Any, *args: Any) -> Any:
        own = [(v, keras.ops.convert_to_numpy(v).copy()) for v, _ in changes]
        try:
            for (variable, value), (_, inside) in zip(own, changes, strict=True):
                variable.assign(inside(float(value)))
            return self.function(*args)
        finally:
            for variable, value in own:
                variable.assign(value)

    def _on_jax(self, changes: Any, state: Any, *args: Any) -> Any:
        # Within an epoch the values are not in the variables but in `state`.
        import jax

        places = {id(v): i for i, v in enumerate(self._model.optimizer.variables)}
        own = {places[id(v)]: state[2][places[id(v)]] for v, _ in changes}
        inside = list(state[2])
        for (i, value), (_, function) in zip(own.items(), changes, strict=True):
            new = np.asarray(function(float(value)), value.dtype)
            inside[i] = jax.device_put(new, value.sharding)
        logs, (*before, optimizer, metrics) = self.function((*state[:2], inside, *state[3:]), *args)
        optimizer = [own.get(i, value) for i, value in enumerate(optimizer)]
        return logs, (*before, optimizer, metrics)
