"""Population training: the trials of a search, trained together in the slots of one program."""

import copy
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools._core.notices import notify
from kerastools.search._reuse.description import Description, describe, has_user_code
from kerastools.search._reuse.model_cache import copy_state, state_of
from kerastools.search._stacked.eligibility import why_model_cannot_stack
from kerastools.search._successive_halving import Rungs

_KEPT = 4
# CPU seconds per step. Keras's overhead per step is of this order: a model whose share of a stacked
# step takes less is hardly cheaper alone.
_SURELY_PAYS = 0.01
# Of what two steps move all variables. Where a gradient is rounding only, as that of a bias before
# a batch normalization, an adaptive optimizer moves its variable to one side or the other.
_LARGEST_DISTANCE = 0.5


class StopReason(Enum):
    """Why a member of a population trains no further."""

    COMPLETED = "all epochs are done"
    DIVERGED = "the loss is not finite"
    CALLBACK = "a callback"
    HALVING = "successive halving"


class Member:
    """One trial of a population and the state of its training.

    Args:
        trial: keras-tuner's trial.
        worker: Index of the trial among those that the tuner runs now, unique.
        model: Its model, or the exception that its builder raised.
        description: `describe(model)`.

    Attributes:
        how_trained: How it was trained together with others, for the user.
        alone_because: Why it is trained alone, or `None`.
    """

    def __init__(self, trial: Any, worker: int, model: Any, description: Description) -> None:
        self.trial = trial
        self.worker = worker
        self.model = model
        self.description = description
        self.history = TrainedHistory()
        self.best = np.nan
        self.how_trained = ""
        self.alone_because: str | None = None
        self.callbacks: list[Any] = []
        self.stub: Any = None

    @property
    def name(self) -> str:
        """The trial's id."""
        return self.trial.trial_id

    @property
    def epochs(self) -> int:
        """Number of epochs trained so far."""
        return len(self.history.epoch)

    def begin(self, callbacks: list[Any], template: Any) -> None:
        """Starts training, with copies of `callbacks`."""
        self.stub = _ModelStub(template)
        self.callbacks = copy.deepcopy(callbacks)
        for callback in self.callbacks:
            callback.set_model(self.stub)
            callback.on_train_begin()

    def end_epoch(self, logs: dict[str, float], objective: Any) -> bool:
        """Records the logs of one epoch; returns whether it is the best so far."""
        for callback in self.callbacks:
            callback.on_epoch_end(self.epochs, dict(logs))
        self.history.add(logs)
        value = float(objective.get_value(logs))
        if np.isnan(value) or not (np.isnan(self.best) or objective.better_than(value, self.best)):
            return False
        self.best = value
        return True

    def stop_reason(self, epochs: int) -> StopReason | None:
        """Returns why training ends before the next of `epochs` epochs, or `None`."""
        if not np.isfinite(self.history.history["loss"][-1]):
            return StopReason.DIVERGED
        if self.stub.stop_training:
            return StopReason.CALLBACK
        return StopReason.COMPLETED if self.epochs >= epochs else None

    def stop(self, reason: StopReason) -> None:
        """Adds an early stop to `how_trained`."""
        if reason in (StopReason.CALLBACK, StopReason.HALVING):
            self.how_trained += f", stopped after {self.epochs} epochs by {reason.value}"


class _ModelStub:
    """What a callback sees in place of a model: enough to stop training."""

    def __init__(self, template: Any) -> None:
        self.template = template
        self.stop_training = False

    @property
    def metrics(self) -> list[Any]:
        return self.template.metrics

    def get_weights(self) -> list[Any]:
        return []  # The search itself keeps the best weights.


class TrainedHistory(keras.callbacks.History):
    """History of a model that was not trained by `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []

    def add(self, logs: dict[str, float]) -> None:
        """Adds the logs of one epoch."""
        self.epoch.append(len(self.epoch))
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


def largest_group(waiting: list[Member]) -> list[Member]:
    """Returns the members of the most frequent structure."""
    groups: list[list[Member]] = []
    for member in waiting:
        for group in groups:
            if group[0].description == member.description:
                group.append(member)
                break
        else:
            groups.append([member])
    return max(groups, key=len, default=[])


class Program:
    """The compiled program of one structure, and its measured cost.

    Attributes:
        model: The stacked model, or `None` if the structure is trained alone.
        alone_because: Why it is trained alone, or `None`.
        seconds_together: CPU seconds of an epoch, per model of a full population.
        seconds_alone: CPU seconds of an epoch of one model trained alone, or `None`.
    """

    def __init__(self, description: Description, model: Any, alone_because: str | None) -> None:
        self.description = description
        self.model = model
        self.alone_because = alone_because
        self.epochs = 0
        self.seconds_together = np.inf
        self.seconds_alone: float | None = None

    def measure(self, seconds: float) -> None:
        """Records the time of an epoch of all slots; the first epoch compiles and is left out."""
        self.epochs += 1
        if self.epochs > 1:
            self.seconds_together = min(self.seconds_together, seconds / self.model.size)

    def compare(self, seconds_alone: float) -> None:
        """Records the time of an epoch of one model alone, and chooses the cheaper way."""
        self.seconds_alone = seconds_alone
        if seconds_alone < self.seconds_together:
            self.alone_because = (
                f"an epoch takes {seconds_alone:.2g} s of a processor alone and "
                f"{self.seconds_together:.2g} s for each in a population"
            )


class Population:
    """Runs the trials of a search: trials of one structure train together, each in its own slot.

    A slot whose trial is done, stopped or diverged is refilled with the next trial at once, without
    compiling. Trials that cannot be trained together, or for which it is measured not to pay, are
    trained alone.

    Args:
        tuner: The tuner.
        fit: The arguments of `fit`, by name.
        rungs: Successive halving.
        build: Returns the model of a trial.
        finish: Ends a trial, given its member and its best state, or `None` if it is to be trained
            alone. Returns the CPU seconds of an epoch of a trial trained alone.
    """

    def __init__(
        self,
        tuner: Any,
        fit: dict[str, Any],
        rungs: Rungs,
        build: Callable[[Any], Any],
        finish: Callable[[Member, list[Any] | None], float | None],
    ) -> None:
        self.tuner = tuner
        self.size = tuner.population
        self.fit = fit
        self.epochs = fit.get("epochs", 1)
        self.batch_size = fit.get("batch_size", 32)
        self.steps = -(-len(fit["x"]) // self.batch_size)
        self.rungs = rungs
        self.build = build
        self.finish = finish
        self.waiting: list[Member] = []
        self.workers: set[int] = set()
        self.programs: list[Program] = []
        seed = int(np.random.SeedSequence([tuner.seed, 0]).generate_state(1)[0])
        self.generator = np.random.default_rng(seed)

    def run(self) -> None:
        """Runs all trials that the oracle creates."""
        while self._draw():
            group = largest_group(self.waiting)[: self.size]
            if not group:
                continue
            program = self._program(group)
            if program.alone_because is None:
                self._train(program)
            else:
                for member in group:
                    self.waiting.remove(member)
                    self._train_alone(member, program.alone_because)

    def _draw(self) -> bool:
        """Draws trials until a group is full, at most 2 × population; returns false at the end."""
        while len(largest_group(self.waiting)) < self.size > len(self.waiting) / 2:
            member, status = self._create()
            if member is None:
                return bool(self.waiting) or status == "IDLE"
            self.waiting.append(member)
        return True

    def _create(self) -> tuple[Member | None, str]:
        worker = next(i for i in range(len(self.workers) + 1) if i not in self.workers)
        trial = self.tuner.oracle.create_trial(f"{self.tuner.tuner_id}-{worker}")
        if trial.status in ("STOPPED", "IDLE"):
            return None, trial.status
        self.workers.add(worker)
        self.tuner.on_trial_begin(trial)
        try:
            model = self.build(trial)
            return Member(trial, worker, model, describe(model)), trial.status
        except keras_tuner.errors.FatalError:
            raise
        except Exception as error:
            return Member(trial, worker, error, {"builder raised": id(error)}), trial.status

    def _program(self, group: list[Member]) -> Program:
        """Returns the program for the models of `group`."""
        first = group[0]
        for program in self.programs:
            if program.description == first.description:
                return program
        if isinstance(first.model, Exception):
            return Program(first.description, None, "it cannot be built")
        if len(group) == 1:
            return Program(first.description, None, "it is the only one of its kind")
        because = why_model_cannot_stack(first.model)
        program = Program(first.description, None, because)
        if because is None:
            try:
                program.model = _stacked(first.model, len(group))
                if has_user_code(program.description):
                    self._build_again(program, first)
                if keras.backend.backend() == "tensorflow":  # On JAX it is Keras's own step.
                    self._compare_with_fit(program.model, group)
            except Exception as error:
                program.model, program.alone_because = None, self._warn_of_failure(error)
        self.programs = [*self.programs[1 - _KEPT :], program]
        return program

    def _train(self, program: Program) -> None:
        """Trains members of one structure until no more come."""
        slots: list[Member | None] = [None] * program.model.size
        while True:
            self._fill(program, slots)
            if not any(slots):
                return
            try:
                finished = self._train_epoch(program, slots)
            except Exception as error:
                program.model, program.alone_because = None, self._warn_of_failure(error)
                for left in filter(None, slots):
                    left.model = self.build(left.trial)
                    self._train_alone(left, program.alone_because)
                return
            for member, state in finished:
                self._end(member, state)

    def _fill(self, program: Program, slots: list[Member | None]) -> None:
        """Loads the next trials into the free slots."""
        begun, fresh = [], {}
        for k, occupant in enumerate(slots):
            if occupant is not None or program.alone_because is not None:
                continue
            member = self._next(program.description)
            if member is not None and self._should_measure_alone(program):
                seconds = self._train_alone(member, "it is measured whether training together pays")
                program.compare(np.inf if seconds is None else seconds)
                alone = program.alone_because is not None
                member = None if alone else self._next(program.description)
            if member is None:
                break
            fresh[k] = member.model
            member.begin(self.fit.get("callbacks") or [], program.model.template)
            member.model = None  # Its weights are in the slot.
            slots[k] = member
            begun.append(member)
        if fresh:
            program.model.load(fresh)
        number = sum(occupant is not None for occupant in slots)
        kind = "in a program compiled before" if program.epochs else "newly compiled"
        for new in begun:
            new.how_trained = f"one of {number} trained together, {kind}"

    def _should_measure_alone(self, program: Program) -> bool:
        doubtful = _SURELY_PAYS < program.seconds_together / self.steps < np.inf
        return doubtful and program.seconds_alone is None and self.epochs > 2

    def _next(self, description: Description) -> Member | None:
        """Returns the next trial of a structure, or `None` if there is none for now."""
        for member in self.waiting:
            if member.description == description:
                self.waiting.remove(member)
                return member
        while len(self.waiting) < 2 * self.size:
            new, _ = self._create()
            if new is None or new.description == description:
                return new
            self.waiting.append(new)
        return None

    def _train_epoch(
        self, program: Program, slots: list[Member | None]
    ) -> list[tuple[Member, list[Any]]]:
        """Trains one epoch; frees the slots of finished members and returns their best states."""
        x, y, model = self.fit["x"], self.fit["y"], program.model
        shuffle = self.fit.get("shuffle", True)
        order = self.generator.permutation(len(x)) if shuffle else np.arange(len(x))
        start = time.process_time()
        logs = model.train(x, y, self.batch_size, order)
        if self.fit.get("validation_data") is not None:
            validated = model.evaluate(*self.fit["validation_data"], self.batch_size)
            logs = [log | more for log, more in zip(logs, validated, strict=True)]
        program.measure(time.process_time() - start)

        objective = self.tuner.oracle.objective
        model.keep_best(
            np.array(
                [
                    member is not None and member.end_epoch(log, objective)
                    for member, log in zip(slots, logs, strict=True)
                ]
            )
        )
        behind = self._behind(slots)
        finished = []
        for k, member in enumerate(slots):
            if member is None:
                continue
            reason = member.stop_reason(self.epochs)
            if reason is None and member.name in behind:
                reason = StopReason.HALVING
            if reason is not None:
                member.stop(reason)
                finished.append((member, model.best_state(k)))
                slots[k] = None
        return finished

    def _build_again(self, program: Program, member: Member) -> None:
        """Lets the builder set what the user's code reads while the program is traced."""
        if describe(self.build(member.trial)) != program.description:
            raise ValueError("the builder does not build the same model again")

    def _compare_with_fit(self, model: Any, group: list[Member]) -> None:
        """Raises if the first steps of the first member differ from those of Keras's `fit`."""
        x, y = (self.fit[name][: 2 * self.batch_size + 1] for name in ("x", "y"))
        alone = self.build(group[0].trial)
        copy_state(group[0].model, alone)
        before = [keras.ops.convert_to_numpy(v) for v in state_of(alone)]
        alone.run_eagerly = True
        history = alone.fit(x, y, self.batch_size, shuffle=False, verbose=0).history
        model.load({k: member.model for k, member in enumerate(group)})
        logs = model.train(x, y, self.batch_size, np.arange(len(x)))[0]
        model.keep_best(np.arange(model.size) == 0)
        if not np.isfinite(history["loss"][0]):
            return
        for name, value in logs.items():
            # Where two outputs differ by rounding, a row more or less is counted as right.
            allowed = 1e-4 if name == "loss" else 1e-4 + 2 / len(x)
            if not abs(value - history[name][0]) <= allowed * max(1.0, abs(value)):
                raise ValueError(f"{name} {value:.6g} where fit has {history[name][0]:.6g}")
        after = [keras.ops.convert_to_numpy(v) for v in state_of(alone)]
        moved = [_distance(b, a) for a, b in zip(after, before, strict=True)]
        apart = [_distance(b, a) for a, b in zip(after, model.best_state(0), strict=True)]
        if not np.linalg.norm(apart) <= _LARGEST_DISTANCE * np.linalg.norm(moved):
            raise ValueError("the weights move otherwise than in fit")

    def _behind(self, slots: list[Member | None]) -> list[str]:
        """Returns the names of the trials that successive halving stops."""
        arrived: dict[int, dict[str, float]] = {}
        for member in filter(None, slots):
            arrived.setdefault(member.epochs, {})[member.name] = member.best
        return [
            name
            for epoch, best in arrived.items()
            for name in self.rungs.arrive(epoch, self.epochs, best)
        ]

    def _train_alone(self, member: Member, because: str) -> float | None:
        member.alone_because = because
        return self._end(member, None)

    def _end(self, member: Member, state: list[Any] | None) -> float | None:
        seconds = self.finish(member, state)
        self.workers.discard(member.worker)
        return seconds

    def _warn_of_failure(self, error: Exception) -> str:
        because = f"training together failed: {error!r}"
        notify(f"Trials of one structure are trained one after the other: {because}")
        return because


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(np.subtract(a, b, dtype="float64")))


def _stacked(template: Any, size: int) -> Any:
    """Returns the stacked model of this backend; imports only that."""
    if keras.backend.backend() == "jax":
        from kerastools.search._stacked.vmapped_model import VmappedModel

        return VmappedModel(template, size)
    from kerastools.search._stacked.stacked_model import StackedModel

    return StackedModel(template, size)
