"""Freezing and unfreezing layers while the model trains."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import keras

from kerastools._core.checks import require_built
from kerastools._core.graph.batch_statistics import measure_batch_norm
from kerastools._core.graph.calls import read_graph
from kerastools._core.keras_private.optimizer_hooks import strategy_scope
from kerastools._core.keras_private.random_state import random_state, set_random_state
from kerastools._core.keras_private.training import (
    FitEnd,
    StepValues,
    begin_at_epoch,
    data_epoch,
    keep_changes,
    require_sole_owner,
    set_data_epoch,
)
from kerastools._core.registration import register
from kerastools.callbacks._freeze.phase import Phase
from kerastools.callbacks._freeze.phase_backup import PhaseBackup
from kerastools.callbacks._freeze.phase_rate import PhaseRate, phase_rates
from kerastools.callbacks._freeze.plot_phases import plot_phases
from kerastools.callbacks._freeze.progress import PhaseStates, Progress, Transition, find_states
from kerastools.callbacks._freeze.schedule_data import ScheduleData
from kerastools.optimizers._base.rate_factors import set_factors
from kerastools.optimizers._base.slots import optimizer_tree
from kerastools.optimizers._rebind import forget_slots, rebind

# Rows per batch where statistics are measured.
_BATCH = 256


@register
class FreezeSchedule(ScheduleData, keras.callbacks.Callback):
    """Trains some layers first and others later, in phases, inside one `fit`.

    For transfer: new upper layers on a pretrained trunk are trained while the trunk is frozen, then
    the trunk is unfrozen from the top down at a smaller learning rate. Keras's way is to stop, set
    `trainable`, compile and fit again, which forgets the optimizer's slots, iterations and
    learning-rate schedule; changing `trainable` during `fit` is ignored on TensorFlow, fails on JAX
    or trains a layer with another's momentum. Here, at the start of each phase:

    - exactly the layers that the phase names train; all others are frozen, keep their weights bit
      for bit, and cost no backward pass;
    - every slot of the weights that stay, the iterations and the learning-rate schedule go on
      (`kerastools.optimizers.rebind`); weights that join late count their own steps; a phase with
      `fresh_slots` resets the slots;
    - weights that were frozen one by one stay frozen, and so does the kernel under a LoRA update.

    All is checked when training begins, before anything is changed. Afterwards the flags stay as
    the last phase had them, so that the model, its optimizer and a saved file agree and `fit` can
    go on. A `fit` whose
    `initial_epoch` is where the last one with this object ended goes on in the same phase; with a
    new object, the phase follows from the epoch number, if all before it count epochs only.

    Learning rates of phases act inside the training steps only: `optimizer.learning_rate` remains
    what you or other callbacks set (`OneCycle`, `LearningRateScheduler`, `ReduceLROnPlateau`, in
    any order), and nothing of the phases is left after training, nor after Ctrl-C. A phase with a
    `learning_rate` of its own is refused next to a callback that sets it, but for
    `ReduceLROnPlateau`, whose reductions act on it too. Where only the rate changes from one phase
    to the next, the step is not compiled again, unless the optimizer follows a schedule.

    With a `directory` a run that was killed, at any moment, is started again by the same program,
    and ends at the weights of an uninterrupted one, to the bit; `keras.callbacks.BackupAndRestore`
    would build the optimizer for other variables and drop its state.

    Args:
        phases: One `Phase` after the other, or a tuple of its arguments, `("head", 3)`; all but the
            last need an end.
        batch_norm: What the batch normalisation of frozen layers does. `"inference"`: it uses its
            moving statistics and keeps them, which is right for small or shifted batches and for
            all cached features; when its layer is unfrozen, it goes over to batch statistics.
            `"train"`: batch normalisation is never frozen; scale, offset and moving statistics
            adapt to the new data in every phase. `"recalibrate"`: as `"inference"`, but each phase
            begins with measuring the moving statistics of all batch normalisations on
            `calibration_data`, for data that differ from those of the pretraining; functional and
            Sequential models only. Each is decided by `trainable` alone and means
            the same in every version of Keras. Do not call the trunk with `training=False`:
            Keras ignores that in functional models up to 3.15 and obeys it from 3.16 on.
        calibration_data: Inputs as the model takes them, without labels, for
            `batch_norm="recalibrate"`; a few thousand rows do. Not part of the config.
        directory: Where everything that changes is kept after each epoch; the next `fit`
            with the same arguments goes on from it, and it is emptied when training ends. Random
            states of Python, NumPy and Keras are kept too, so that the shuffled rows of arrays and
            of a `PyDataset` come as they would have: call `keras.utils.set_random_seed` at the
            program's start, since TensorFlow orders arrays by that seed and by nothing that can be
            kept (in the same order in every epoch). A `tf.data.Dataset` must order its rows by the
            epoch or not at all. What later callbacks change at an epoch's end is not in it. Not
            part of the config.

    Attributes:
        history: A `Transition` for each phase that began, with its epoch, for marking curves.

    Raises:
        ValueError: If `phases` is empty, a phase but the last has no end, or `batch_norm` is
            unknown. When training begins: if a layer is not found, a phase would train nothing, or
            the learning rate cannot be set as asked; the model is then as it was. At the end of the
            first epoch: if what a `Plateau` monitors is not in the logs.
        TypeError: If something else than a `Phase` stands in `phases`.

    Example:

    >>> import numpy as np
    >>> layers = [keras.layers.Dense(4, name=name) for name in ("a", "b", "head")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> schedule = FreezeSchedule([Phase("head", epochs=2), Phase("b|head", lr_multiplier=0.1)])
    >>> x, y = np.ones((8, 3)), np.ones((8, 4))
    >>> _ = model.fit(x, y, epochs=5, callbacks=[schedule], verbose=0)
    >>> [(t.epoch, t.layers) for t in schedule.history]
    [(0, 'head'), (2, 'b|head')]
    >>> print(schedule)
    FreezeSchedule, batch_norm="inference"
    phase   layers   lasts        learning rate
    ─────────────────────────────────────────────
        1   head     2 epochs     × 1
        2   b|head   to the end   × 0.1

    Reference: Howard and Ruder, "Universal language model fine-tuning for text classification",
    ACL 2018 (gradual unfreezing).
    """

    def __init__(
        self,
        phases: Sequence[Phase | tuple[Any, ...]],
        batch_norm: str = "inference",
        calibration_data: Any = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        keras.callbacks.Callback.__init__(self)
        ScheduleData.__init__(self, phases, batch_norm)
        self.calibration_data = calibration_data
        self.directory = directory
        self.history: list[Transition] = []
        self._logs: list[tuple[int, dict[str, float]]] = []
        self._states = PhaseStates([], [], [])
        self._rates: list[PhaseRate] = []  # While training.
        self._factors: dict[int, float] = {}
        self._give_back: Any = None
        self._progress: Any = None  # A Progress from the first epoch on.
        self._goes_on_at = 0
        self._begun = False
        self._epoch = 0
        self._batch = 0
        self._random: Any = None  # That of a backup, until the first epoch begins.

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the layers of every phase and checks all, before anything is changed."""
        if self._give_back is not None:  # The run before was interrupted.
            self._give_back()
        require_built(self.model, "FreezeSchedule")
        self.check()
        require_sole_owner(self, beside=(keras.callbacks.ReduceLROnPlateau,))
        if self.batch_norm == "recalibrate":
            self._check_data()
        if not self.model.optimizer.built:  # A MultiOptimizer does not know its parts before.
            with strategy_scope(self.model):
                self.model.optimizer.build(self.model.trainable_variables)
        rates = phase_rates(self.model.optimizer)
        for phase, rate in product(self.phases, rates):
            rate.check(phase)
        self._states = find_states(self.model, self.phases, self.batch_norm)
        rebind(self.model.optimizer, self.model)
        self._rates, self._factors, self._optimizer = rates, {}, self.model.optimizer
        self._begun = False
        self._inside = StepValues(self.model, self.step_values)
        self._give_back = FitEnd(self.model, self._release)
        if self.directory is not None:
            self._restore(PhaseBackup(self.directory))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes over to the next phase if the last has ended."""
        self._epoch = epoch
        if self.directory is not None:
            begin_at_epoch(self.model, None)  # What _restore said holds for this fit only.
            if self._random is not None:  # Here and not before, as `fit` itself draws meanwhile.
                set_random_state(self._random)
                self._random = None
        if self._progress is None or epoch == 0 or epoch != self._goes_on_at:
            progress = Progress.at(epoch, self.phases)
            self.history, self._logs = [], []
            self._enter(progress, step=0)
        elif self._at_end():
            self._enter(self._next(), step=0)
        elif not self._begun:
            self._begin()

    @property
    def needs_every_batch(self) -> bool:
        """Whether a phase ends after steps or has a schedule, so that a call must be one step."""
        return any(p.steps is not None or callable(p.learning_rate) for p in self.phases)

    @property
    def sets(self) -> set[str]:
        """What it sets: which layers train, and the learning rate if a phase has its own."""
        own = any(getattr(p, "learning_rate", None) is not None for p in self.phases)
        return {"which layers train"} | ({"learning_rate"} if own else set())

    def step_values(self) -> list[Any]:
        """Returns which variables hold what inside the step that comes; see `StepValues`."""
        steps = self._progress.steps if self._progress else 0
        return [pair for rate in self._rates for pair in rate.values(steps)]

    @property
    def phase_ended(self) -> bool:
        """Whether the phase in which training stands has come to its end."""
        return bool(self._progress is not None and self._progress.ended(self._phase))

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes over to the next phase if the last has made its steps."""
        self._batch = batch
        if self._phase.steps is not None and self._at_end():
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()  # During an epoch JAX keeps the weights elsewhere.
            self._enter(self._next(), step=batch)
            keep_changes(self.model)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the steps, of which one call may make several."""
        # With steps_per_execution Keras numbers the last call of an epoch as if it were full.
        num_batches = (self.params or {}).get("steps") or batch + 1
        self._progress.steps += min(batch + 1, num_batches) - self._batch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks whether the phase has ended; the last one may end training."""
        self._goes_on_at = epoch + 1
        self._logs.append((epoch, dict(logs or {})))
        last = self.history[-1]
        if last.epoch == epoch and last.step and not self._progress.steps:
            # The epoch's end came where a step was announced: the phase begins with the next epoch.
            self.history[-1] = replace(last, epoch=epoch + 1, step=0)
        else:
            self._progress.end_epoch(self._phase, logs or {}, self.model)
        if self._is_last() and self._progress.done:
            self.model.stop_training = True
        if self.directory is not None:
            self._save(PhaseBackup(self.directory))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the rates of phases, and puts the best state back if the last phase restores it."""
        if self._is_last():
            self._progress.restore_best(self.model)
        if self._give_back is not None:
            self._give_back()
        if self.directory is not None:
            PhaseBackup(self.directory).delete()
            begin_at_epoch(self.model, None)

    def plot(self, target: Any = None) -> Any:
        """Draws the losses of the last training, and below them which layer trained when.

        Args:
            target: The path of a picture to write, or matplotlib axes to draw on. By default a new
                figure, which is neither written nor shown.

        Returns:
            The matplotlib figure.

        Raises:
            ValueError: If no epoch of training has ended with this schedule.
            ImportError: If matplotlib is missing; `pip install 'kerastools[plot]'` brings it.
        """
        if not self._logs:
            raise ValueError(
                "FreezeSchedule.plot needs a training to draw. Received a schedule with which no "
                "epoch has ended. Pass it to fit first: model.fit(x, y, callbacks=[schedule])."
            )
        return plot_phases(
            self._logs, self.history, [path for path, _ in self._states.owners], target
        )

    @property
    def _phase(self) -> Phase:
        return self.phases[self._progress.phase]

    def _is_last(self) -> bool:
        return self._progress.phase == len(self.phases) - 1

    def _at_end(self) -> bool:
        return not self._is_last() and self._progress.ended(self._phase)

    def _next(self) -> Progress:
        self._progress.restore_best(self.model)
        return Progress(self._progress.phase + 1)

    def _enter(self, progress: Progress, step: int) -> None:
        self._progress = progress
        if self._phase.fresh_slots and progress.epochs == 0:
            forget_slots(self.model)
        self._begin()
        if self.batch_norm == "recalibrate":
            measure_batch_norm(self.model, self.calibration_data, _BATCH, "FreezeSchedule")
        trained = {id(v) for v in self.model.trainable_weights}
        paths = tuple(
            p for p, layer in self._states.owners if any(id(v) in trained for v in layer.weights)
        )
        num_steps = (self.params or {}).get("steps")
        layers = self._phase.layers
        self.history.append(Transition(self._epoch, step, progress.phase, layers, paths, num_steps))

    def _begin(self) -> None:
        """Sets flags and learning rate and fits the optimizer to them."""
        changed = [self._states.flags[self._progress.phase].set(), not self._begun]
        changed += [rate.begin(self._phase, self._progress.steps) for rate in self._rates]
        factors = self._states.factors[self._progress.phase]
        if any(changed) or factors != self._factors or self._phase.fresh_slots:
            self._scale(factors)
            rebind(self.model.optimizer, self.model)
        self._begun = True

    def _save(self, backup: PhaseBackup) -> None:
        progress = vars(self._progress)
        plain = {
            "schedule": self.get_config(),
            "epoch": self._goes_on_at,
            "progress": {name: value for name, value in progress.items() if name != "best"},
            "history": [{**vars(t), "layers": None} for t in self.history],
            "logs": [(e, {k: float(v) for k, v in logs.items()}) for e, logs in self._logs],
            "rates_begun_at": [rate.begun_at for rate in self._rates],
            "random": random_state(),
            "data_epoch": data_epoch(),
        }
        backup.write(self.model, plain, self._progress.best)

    def _restore(self, backup: PhaseBackup) -> None:
        saved = backup.read()
        if saved is None:
            return
        schedule = json.loads(json.dumps(self.get_config()))
        if saved["schedule"] != schedule or "rates_begun_at" not in saved:
            raise ValueError(
                f"FreezeSchedule cannot go on from {backup.path}: it was written with another "
                f"schedule or version. It holds {saved['schedule']}. Pass another folder, or "
                "delete it."
            )
        self._progress = Progress(**saved["progress"])
        self._begin()
        self._progress.best = backup.restore(self.model)
        self._begin()  # Again, because a phase's own schedule counts from the iterations.
        for rate, begun_at in zip(self._rates, saved["rates_begun_at"], strict=True):
            rate.begun_at = begun_at
        self._goes_on_at = saved["epoch"]
        self._logs = [(epoch, logs) for epoch, logs in saved["logs"]]
        self.history = [
            Transition(
                **t | {"layers": self.phases[t["phase"]].layers, "trained": tuple(t["trained"])}
            )
            for t in saved["history"]
        ]
        self._random = saved.get("random")  # Older files have none.
        begin_at_epoch(self.model, self._goes_on_at)
        set_data_epoch(saved.get("data_epoch"))

    def _release(self) -> None:
        self._inside.undo()
        changed = [rate.release() for rate in self._rates]
        if any(changed) or self._factors:
            self._scale({})
            self.model.train_function = None  # It was compiled with them.
        self._rates = []

    def _scale(self, factors: dict[int, float]) -> None:
        self._factors = factors
        for part in optimizer_tree(self._optimizer):
            set_factors(part, factors)

    def _check_data(self) -> None:
        read_graph(self.model, "FreezeSchedule")
        if self.calibration_data is None:
            raise ValueError(
                'FreezeSchedule needs calibration_data for batch_norm="recalibrate". Received '
                "None. Pass inputs of the new data, FreezeSchedule(phases, 'recalibrate', x_train)."
            )
