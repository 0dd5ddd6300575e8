"""The same `fit`, with many steps in one compiled call."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from kerastools._core.checks import require_model
from kerastools._core.keras_private.data_adapters import split_validation
from kerastools._core.keras_private.patched import patched, unpatched
from kerastools._core.keras_private.training import is_inside_fit
from kerastools.acceleration._choice import _Choice
from kerastools.acceleration._each_batch import (
    Synchronous,
    between_groups,
    may_end_early,
    needs_every_batch,
)
from kerastools.acceleration._loop_data import StackingAdapter
from kerastools.acceleration._row_weights import normalizers
from kerastools.acceleration._runner import _Runner

_LAST_BATCH = ("auto", "keep", "drop", "merge")
_FEWEST_ROWS = 16  # The variance of 16 rows has a standard error of 36 %, of 3 rows 100 %.


def accelerate(
    model: keras.Model,
    steps_per_call: int | str = "auto",
    xla: bool | str = "auto",
    last_batch: str = "auto",
) -> keras.Model:
    """Makes `fit` and `evaluate` of `model` run many steps in one compiled call; returns it.

    Reach for it when a step computes less than its dispatch costs: dense and small recurrent nets
    on a CPU, where Keras spends a few milliseconds a step on everything but arithmetic. Batches are
    stacked on the way in and the loop over them runs inside. Nothing else changes: the same `fit`
    with the same arguments, history, validation, metrics and weights, on arrays, `tf.data`,
    `PyDataset` and generators. On TensorFlow the training step is also traced once instead of
    twice, so that training begins sooner. Where a step is slow by itself nothing is gained, and it
    runs one step at a time.

    By default it chooses while it trains: it times the first steps, takes as many steps a call as
    fit in 0.2 s, and compiles a second time (with XLA on TensorFlow, the loop on JAX) where the
    steps that are left are expected to save twice what compiling cost, and keeps that only if it
    is measured to be faster. With a callback that sets `stop_training`, such as `EarlyStopping`, it
    counts on no more steps than were done already. `print(model.acceleration)` shows the choice.

    Callbacks that implement batch hooks are called once per call, with the number of its last
    step, as with `steps_per_execution` in `compile`. One that has to act on each batch keeps the
    training at one step a call. Keras's own callbacks and those with `needs_every_batch = False`
    need not; any other with a batch hook is taken to.

    The last batch of an epoch, where it is smaller, ruins batch normalisation if it has a few rows
    only, and moves the moving statistics as much as a full one. Here it moves them in proportion to
    its rows.

    It can be called before or after the model is built, and lasts through `compile`.

    Args:
        model: A compiled model. Custom `train_step` and `test_step` methods are used.
        steps_per_call: How many steps a call runs; `"auto"` chooses; 1 gives Keras's own `fit`
            back.
        xla: Whether TensorFlow compiles the loop with XLA; `"auto"` chooses, except for nets with
            convolutions, which XLA slows down on CPUs. `compile(jit_compile=True)` means `True`.
        last_batch: What is done with a last batch of fewer rows. `"keep"`: a step like the others;
            `"drop"`: it is left out; `"merge"`: it is joined to the batch before it. `"auto"`
            merges it if the model trains batch normalisation and it has fewer than 16 rows and
            than half a batch, and keeps it otherwise. Generators: always kept.

    Returns:
        `model`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not compiled, an argument is out of range, or something in the way
            cannot be looped: `run_eagerly`, a distribution, PyTorch, a `make_train_function` of the
            model's own. In `fit`: sparse or ragged data, or a callback that needs each batch while
            `steps_per_call` is a number.

    Example:

    >>> import numpy as np
    >>> layers = [keras.layers.Dense(8, activation="relu") for _ in range(3)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> model = accelerate(model, steps_per_call=10)
    >>> history = model.fit(np.ones((320, 4)), np.ones((320, 1)), epochs=2, verbose=0)
    >>> int(model.optimizer.iterations)
    20
    >>> str(model.acceleration).split(",")[0]
    '10 steps a call'
    """
    _check(model, steps_per_call, xla, last_batch)
    _remove(model)
    if steps_per_call != 1:
        steps = None if steps_per_call == "auto" else int(steps_per_call)
        _Acceleration(model, steps, None if xla == "auto" else bool(xla), last_batch).install()
    return model


class _Plan:
    """How many steps are still to come, as far as is known."""

    def __init__(self, total: int | None = None, may_stop: bool = False) -> None:
        self.total, self.may_stop = total, may_stop
        self.done = 0

    def left(self) -> int:
        """Returns the steps left; where it may end any time, as many again as were done."""
        known = self.done if self.total is None else self.total - self.done
        return min(known, self.done) if self.may_stop else known


class _Acceleration:
    """What `model.acceleration` is: it stands before `fit` and `evaluate` and shows the choice."""

    def __init__(
        self, model: keras.Model, steps: int | None, xla: bool | None, last_batch: str
    ) -> None:
        self.model, self.steps, self.xla, self.last_batch = model, steps, xla, last_batch
        self.plans = {"train": _Plan(), "test": _Plan()}
        self.most: dict[str, int | None] = {"train": None, "test": None}
        self.each_batch: str | None = None

    def install(self) -> None:
        """Puts the methods of this object before those of the model."""
        self.patches = patched(
            self.model,
            fit=self.fit,
            evaluate=self.evaluate,
            make_train_function=lambda _, force=False: self._make("train", force),
            make_test_function=lambda _, force=False: self._make("test", force),
        )
        self.model.acceleration = self
        self._forget()

    def remove(self) -> None:
        """Gives the model its own methods back."""
        self.patches.undo()
        del self.model.acceleration
        self._forget()

    def fit(self, fit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Trains like `fit`, Keras's or what the user has put in its place."""
        call = _arguments(keras.Model.fit, args, kwargs)
        _refuse(self.model)
        callbacks = _flat(call.pop("callbacks", None))
        data = {name: call.pop(name, None) for name in ("x", "y", "sample_weight")}
        split = call.pop("validation_split", 0.0)
        validation = call.pop("validation_data", None)
        if split and validation is None:
            arrays = (data["x"], data["y"], data["sample_weight"])
            arrays, validation = split_validation(arrays, split)
            data = dict(zip(("x", "y", "sample_weight"), arrays, strict=True))
        data |= {name: call.pop(name, None) for name in ("batch_size", "class_weight")}
        steps = call.get("steps_per_epoch")
        train = self._stacked(data | {"shuffle": call.pop("shuffle", True)}, steps, "train")
        if validation is not None:
            size = call.pop("validation_batch_size", None) or data["batch_size"]
            x, y, weight = keras.utils.unpack_x_y_sample_weight(validation)
            held_out = {"x": x, "y": y, "sample_weight": weight, "batch_size": size}
            validation = self._stacked(held_out, call.get("validation_steps"), "test")
        self._plan(callbacks, call.get("epochs", 1) - call.get("initial_epoch", 0))
        with between_groups(callbacks, self.model):
            return fit(
                x=train,
                validation_data=validation,
                callbacks=[*callbacks, Synchronous()],
                **call,
            )

    def evaluate(self, evaluate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluates like `evaluate`."""
        if is_inside_fit(kwargs):
            return evaluate(*args, **kwargs)
        call = _arguments(keras.Model.evaluate, args, kwargs)
        _refuse(self.model)
        callbacks = _flat(call.pop("callbacks", None))
        data = {name: call.pop(name, None) for name in ("x", "y", "sample_weight", "batch_size")}
        stacked = self._stacked(data, call.get("steps"), "test")
        self.plans["test"] = _Plan(self.most["test"])
        with between_groups(callbacks, self.model):
            return evaluate(x=stacked, callbacks=[*callbacks, Synchronous()], **call)

    def _make(self, kind: str, force: bool) -> Any:
        name = f"{kind}_function"
        runner = getattr(self.model, name)
        if runner is None or force:
            runner = _Runner(self.model, kind, self._choice(kind), self.plans[kind])
            setattr(self.model, name, runner)
        runner.plan = self.plans[kind]
        return runner

    def _choice(self, kind: str) -> _Choice:
        jax = keras.backend.backend() == "jax"
        xla = True if self.model.jit_compile and not jax else self.xla
        if kind == "test" and xla is None:
            xla = False
        steps = 1 if self.each_batch else self.steps
        return _Choice(jax, steps, xla, self.most[kind])

    def _stacked(self, data: dict[str, Any], steps: int | None, kind: str) -> StackingAdapter:
        last = self._fate if kind == "train" else lambda rows, size: "keep"
        stacked = StackingAdapter(data, steps, last)
        self.most[kind] = stacked.per_epoch or stacked.num_batches
        return stacked

    def _fate(self, rows: int, size: int) -> str:
        if self.last_batch != "auto":
            return self.last_batch
        norms = any(layer.trainable for layer in normalizers(self.model))
        return "merge" if norms and rows < min(_FEWEST_ROWS, size / 2) else "keep"

    def _plan(self, callbacks: list[Any], epochs: int) -> None:
        needing = [type(c).__name__ for c in callbacks if needs_every_batch(c)]
        if needing and self.steps is not None:
            raise ValueError(
                f"An accelerated fit runs {self.steps} steps in one call. Received the callback "
                f"{needing[0]}, whose batch hooks would act only between calls. If that is right, "
                "set needs_every_batch = False on it; otherwise use steps_per_call='auto', which "
                "then runs one step a call."
            )
        each_batch = needing[0] if needing else None
        if each_batch != self.each_batch:
            self.each_batch = each_batch
            self._forget()
        may_stop = any(may_end_early(c) for c in callbacks)
        for kind, most in self.most.items():
            self.plans[kind] = _Plan(None if most is None else most * epochs, may_stop)

    def _forget(self) -> None:
        self.model.train_function = self.model.test_function = None

    def __str__(self) -> str:
        runner = self.model.train_function
        if not isinstance(runner, _Runner):
            return "nothing chosen yet: call fit first"
        if self.each_batch:
            return f"1 step a call, because {self.each_batch} needs each batch"
        return str(runner.choice)

    __repr__ = __str__


def _remove(model: Any) -> None:
    if isinstance(getattr(model, "acceleration", None), _Acceleration):
        model.acceleration.remove()


def _arguments(method: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """Returns arguments by their names in Keras; the user's own `fit` may take others, too."""
    names = list(inspect.signature(method).parameters)[1:]
    if len(args) > len(names) or not kwargs.keys().isdisjoint(names[: len(args)]):
        inspect.signature(method).bind(None, *args, **kwargs)  # Raises, and says why.
    return dict(zip(names, args, strict=False)) | kwargs


def _flat(callbacks: Any) -> list[Any]:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise ValueError(
            "An accelerated fit needs callbacks as a list, whose batch hooks it can hold back. "
            "Received a CallbackList. Pass its .callbacks."
        )
    return [] if callbacks is None else [c for c in keras.tree.flatten(callbacks) if c is not None]


def _check(model: Any, steps_per_call: Any, xla: Any, last_batch: Any) -> None:
    require_model(model, "accelerate")
    if not model.compiled:
        raise ValueError(
            f'accelerate needs a compiled model. Received model "{model.name}". Call '
            "model.compile(optimizer, loss) first."
        )
    if steps_per_call != "auto" and not (
        isinstance(steps_per_call, int)
        and not isinstance(steps_per_call, bool)
        and steps_per_call > 0
    ):
        raise ValueError(
            "accelerate needs steps_per_call to be 'auto' or a whole number of at least 1. "
            f"Received {steps_per_call!r}."
        )
    if xla not in ("auto", True, False):
        raise ValueError(f"accelerate needs xla to be 'auto', True or False. Received {xla!r}.")
    if last_batch not in _LAST_BATCH:
        raise ValueError(
            f"accelerate needs last_batch to be one of {_LAST_BATCH}. Received {last_batch!r}."
        )
    if steps_per_call != 1:
        _refuse(model)


def _refuse(model: Any) -> None:
    """Raises where the steps of a model cannot run in a loop of ours."""
    reason = None
    if keras.backend.backend() not in ("tensorflow", "jax"):
        reason = f"the backend is {keras.backend.backend()}, which has no compiled loop"
    elif model.run_eagerly:
        reason = "it was compiled with run_eagerly=True, which asks for steps that are not compiled"
    elif keras.distribution.distribution() is not None:
        reason = "a keras.distribution is set, whose placement of batches a stack would break"
    elif keras.backend.backend() == "tensorflow" and _replicated(model):
        reason = "it trains under a tf.distribute strategy, whose batches cannot be stacked"
    elif unpatched(model, "make_train_function") is not keras.Model.make_train_function:
        reason = f"{type(model).__name__} defines make_train_function itself"
    elif model.steps_per_execution != 1:
        reason = (
            f"it was compiled with steps_per_execution={model.steps_per_execution}; compile without"
        )
    if reason:
        raise ValueError(
            f'The fit of model "{model.name}" cannot be accelerated: {reason}. '
            "accelerate(model, steps_per_call=1) gives Keras's own fit back."
        )


def _replicated(model: Any) -> bool:
    return model.distribute_strategy.num_replicas_in_sync > 1
