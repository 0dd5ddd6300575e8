"""The same `fit`, with many steps in one compiled call."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras

from kerastools._core.checks import require_model
from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.data_adapters import split_validation
from kerastools._core.keras_private.patched import patched, unpatched
from kerastools._core.keras_private.training import is_inside_fit, steps_until_save
from kerastools._core.notices import notify
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
_OWN = {"train": ("fit", "make_train_function"), "test": ("evaluate", "make_test_function")}
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
    is measured to be faster. A recurrent net takes XLA at once where that is expected to pay. With
    a callback that sets `stop_training`, such as `EarlyStopping`, it counts on no more steps than
    were done already. `print(model.acceleration)` shows the choice.

    Nothing of yours runs before the first step but to be traced. A model, callback or data set for
    which a loop would not do the same as Keras trains all the same, one step a call or by Keras's
    own function, and a `KerastoolsNotice` names the reason: `run_eagerly`, a distribution,
    `steps_per_execution`, a `fit` or `make_train_function` of the model's own, sparse data.

    Keras's own callbacks have their batch hooks called once per call, with the number of its last
    step, as with `steps_per_execution` in `compile`; a call ends where one with an integer
    `save_freq` saves. Any other callback with a batch hook is taken to act on each batch, which
    keeps the model at one step a call; set `needs_every_batch = False` on those that need not.

    A data set of unknown length takes as many steps as it has batches. Keras itself calls the step
    once more at its end, which may draw another dropout mask. The batches of a generator are
    collected before the call that runs them.

    The last batch of an epoch, where it is smaller, ruins batch normalisation if it has a few rows
    only, and moves the moving statistics as much as a full one. Here it moves them in proportion to
    its rows.

    It can be called before or after the model is built, and lasts through `compile`.

    Args:
        model: A compiled model. Custom `train_step` and `test_step` methods are used.
        steps_per_call: How many steps a call runs; `"auto"` chooses; 1 gives Keras's own `fit`
            back.
        xla: Whether TensorFlow compiles the loop with XLA; `"auto"` chooses, and tries it on
            convolutions, which it may slow down on CPUs, only where they are small.
            `compile(jit_compile=True)` means `True`; `jit_compile=False` is what Keras's `"auto"`
            comes to on a CPU and does not forbid it.
        last_batch: What is done with a last batch of fewer rows. `"keep"`: a step like the others;
            `"drop"`: it is left out; `"merge"`: it is joined to the batch before it. `"auto"`
            merges it if the model trains batch normalisation and it has fewer than 16 rows and
            than half a batch, and keeps it otherwise. Generators: always kept.

    Returns:
        `model`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not compiled or an argument is out of range.

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

    def __init__(
        self, per_epoch: int | None = None, callbacks: Iterable[Any] = (), epochs: int = 1
    ) -> None:
        self.total = per_epoch and per_epoch * epochs
        self.callbacks, self.epochs = list(callbacks), epochs
        self.may_stop = any(map(may_end_early, self.callbacks))
        self.done = 0

    def left(self) -> int:
        """Returns the steps left; where it may end any time, as many again as were done."""
        known = self.done if self.total is None else self.total - self.done
        return min(known, self.done) if self.may_stop else known

    def end_epoch(self) -> None:
        """Learns from the first end of the data how long an epoch is."""
        self.total = self.total or self.done * self.epochs

    def most(self, steps: int, at_start: bool) -> int:
        """Returns how many of `steps` may run before a callback saves.

        The first step of an epoch runs alone then: by its number the callback knows the epoch.
        """
        saves = [n for n in map(steps_until_save, self.callbacks) if n is not None]
        return max(1, min([steps, *saves, *([1] if saves and at_start else [])]))


class _Acceleration:
    """What `model.acceleration` is: it stands before `fit` and `evaluate` and shows the choice."""

    def __init__(
        self, model: keras.Model, steps: int | None, xla: bool | None, last_batch: str
    ) -> None:
        self.model, self.steps, self.xla, self.last_batch = model, steps, xla, last_batch
        self.plans = {kind: _Plan() for kind in _OWN}
        self.most: dict[str, int | None] = dict.fromkeys(_OWN)
        self.obstacles: dict[str, str | None] = dict.fromkeys(_OWN)
        self.each_batch: dict[str, str | None] = dict.fromkeys(_OWN)
        self.said: set[str] = set()

    def install(self) -> None:
        """Puts the methods of this object before those of the model."""
        self.patches = patched(
            self.model,
            fit=self.fit,
            evaluate=self.evaluate,
            make_train_function=lambda make, force=False: self._make("train", make, force),
            make_test_function=lambda make, force=False: self._make("test", make, force),
        )
        self.model.acceleration = self
        for kind in _OWN:
            self._forget(kind)
            self._loops(kind)

    def remove(self) -> None:
        """Gives the model its own methods back."""
        self.patches.undo()
        del self.model.acceleration
        for kind in _OWN:
            self._forget(kind)

    def fit(self, fit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Trains like Keras's `fit`."""
        own = _obstacle(self.model, "train")  # A `fit` of the user's may take other arguments.
        call = {} if own else _arguments(keras.Model.fit, args, kwargs)
        callbacks = call.pop("callbacks", None)
        if not self._loops("train", callbacks):
            self._loops("test", callbacks)
            return fit(*args, **kwargs)
        callbacks = _flat(callbacks)
        data = {name: call.pop(name, None) for name in ("x", "y", "sample_weight")}
        split = call.pop("validation_split", 0.0)
        held_out = call.pop("validation_data", None)
        if split and held_out is None:
            arrays = (data["x"], data["y"], data["sample_weight"])
            arrays, held_out = split_validation(arrays, split)
            data = dict(zip(("x", "y", "sample_weight"), arrays, strict=True))
        data |= {name: call.pop(name, None) for name in ("batch_size", "class_weight")}
        data["shuffle"] = call.pop("shuffle", True)
        epochs = call.get("epochs", 1) - call.get("initial_epoch", 0)
        x = self._data("train", data, call.get("steps_per_epoch"), callbacks, epochs)
        if held_out is not None and self._loops("test"):
            size = call.pop("validation_batch_size", None) or data["batch_size"]
            names = ("x", "y", "sample_weight")
            unpacked = keras.utils.unpack_x_y_sample_weight(held_out)
            data = dict(zip(names, unpacked, strict=True)) | {"batch_size": size}
            held_out = self._data("test", data, call.get("validation_steps"), callbacks, epochs)
        with between_groups(callbacks, self.model):
            return fit(x=x, validation_data=held_out, callbacks=[*callbacks, Synchronous()], **call)

    def evaluate(self, evaluate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluates like Keras's `evaluate`."""
        if is_inside_fit(kwargs):
            return evaluate(*args, **kwargs)
        own = _obstacle(self.model, "test")
        call = {} if own else _arguments(keras.Model.evaluate, args, kwargs)
        callbacks = call.pop("callbacks", None)
        if not self._loops("test", callbacks):
            return evaluate(*args, **kwargs)
        callbacks = _flat(callbacks)
        data = {name: call.pop(name, None) for name in ("x", "y", "sample_weight", "batch_size")}
        x = self._data("test", data, call.get("steps"), callbacks)
        with between_groups(callbacks, self.model):
            return evaluate(x=x, callbacks=[*callbacks, Synchronous()], **call)

    def _make(self, kind: str, make: Callable[..., Any], force: bool) -> Any:
        name = f"{kind}_function"
        runner = getattr(self.model, name)
        if self.obstacles[kind] or _obstacle(self.model, kind):
            if isinstance(runner, _Runner):
                self._forget(kind)
            return make(force=force)
        if runner is None or force:
            runner = _Runner(self.model, kind, self._choice(kind), self.plans[kind])
            setattr(self.model, name, runner)
        runner.plan = self.plans[kind]
        return runner

    def _choice(self, kind: str) -> _Choice:
        jax = keras.backend.backend() == "jax"
        # `jit_compile=False` cannot be told from "auto" here, which is False without a GPU.
        xla = True if self.xla is None and self.model.jit_compile and not jax else self.xla
        if kind == "test" and xla is None:
            xla = False
        steps = 1 if self.each_batch[kind] else self.steps
        return _Choice(jax, steps, xla, self.most[kind])

    def _data(
        self,
        kind: str,
        data: dict[str, Any],
        steps: int | None,
        callbacks: list[Any],
        epochs: int = 1,
    ) -> Any:
        """Returns the data as stacks of batches, or as Keras's where they cannot be stacked."""
        last = self._fate if kind == "train" else lambda rows, size: "keep"
        # XLA needs to know the rows where a net loops over time; elsewhere they may change freely.
        fixed = kind == "train" and any(
            is_kind(layer, "recurrent") for layer in sublayers(self.model)
        )
        stacked = StackingAdapter(data, steps, last, fixed)
        if stacked.not_dense:
            self._loops(kind, because=f"its data is sparse or ragged ({stacked.not_dense})")
            return stacked.inner
        self.most[kind] = most = stacked.per_epoch or stacked.num_batches
        self.plans[kind] = _Plan(most, callbacks, epochs)
        needing = [type(c).__name__ for c in callbacks if needs_every_batch(c, kind)]
        each_batch = needing[0] if needing else None
        if each_batch != self.each_batch[kind]:
            self.each_batch[kind] = each_batch
            self._forget(kind)
        if each_batch:
            self._say(
                f'Model "{self.model.name}" runs one step a call, because the callback '
                f"{each_batch} has hooks for each batch. If they may act between calls only, set "
                "needs_every_batch = False on it."
            )
        return stacked

    def _fate(self, rows: int, size: int) -> str:
        if self.last_batch != "auto":
            return self.last_batch
        norms = any(layer.trainable for layer in normalizers(self.model))
        return "merge" if norms and rows < min(_FEWEST_ROWS, size / 2) else "keep"

    def _loops(self, kind: str, callbacks: Any = None, because: str | None = None) -> bool:
        """Returns whether the steps can run in a loop; says, where they cannot, that Keras runs."""
        because = because or _obstacle(self.model, kind, callbacks)
        if (because is None) != (self.obstacles[kind] is None):
            self._forget(kind)
        self.obstacles[kind] = because
        if because:
            self._say(
                f'Model "{self.model.name}" runs the {kind} steps as plain Keras does: {because}.'
            )
        return because is None

    def _say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            notify(text, stacklevel=6)

    def _forget(self, kind: str) -> None:
        setattr(self.model, f"{kind}_function", None)

    def __str__(self) -> str:
        runner = self.model.train_function
        if self.obstacles["train"]:
            return f"plain Keras: {self.obstacles['train']}"
        if not isinstance(runner, _Runner):
            return "nothing chosen yet: call fit first"
        if self.each_batch["train"]:
            return f"1 step a call, because {self.each_batch['train']} needs each batch"
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


def _obstacle(model: Any, kind: str, callbacks: Any = None) -> str | None:
    """Returns why the steps of a model cannot run in a loop of ours, if they cannot."""
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        return f"the backend is {backend}, which has no compiled loop"
    if model.run_eagerly:
        return "it was compiled with run_eagerly=True"
    if backend == "jax" and not model.jit_compile:
        return "it was compiled with jit_compile=False, or has a layer that JAX cannot compile"
    if keras.distribution.distribution() is not None:
        return "a keras.distribution is set, whose placement of batches a stack would break"
    if backend == "tensorflow" and _distributes(model):
        return "it trains under a tf.distribute strategy, whose batches cannot be stacked"
    if model.steps_per_execution != 1:
        return f"it was compiled with steps_per_execution={model.steps_per_execution}"
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return "its callbacks are a CallbackList, whose hooks cannot be held back"
    for name in _OWN[kind]:
        if unpatched(model, name) is not getattr(keras.Model, name):
            return f"{type(model).__name__} has its own {name}"
    return None


def _distributes(model: Any) -> bool:
    import tensorflow as tf

    if tf.distribute.has_strategy():
        return True
    return model.distribute_strategy is not tf.distribute.get_strategy()
