"""Populations: the trials of a search, trained together in slots of one program."""

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools.search._reuse.description import Description, describe
from kerastools.search._stacked.eligibility import why_model_cannot_stack
from kerastools.search._successive_halving import Rungs


class Member:
    """A trial and what is known of its training.

    Args:
        trial: keras-tuner's trial.
        place: Which of the tuner's running trials it is, an integer that no other one has.
        model: Its model, or the exception that its builder raised.
        description: What the model computes.
    """

    def __init__(self, trial: Any, place: int, model: Any, description: Description) -> None:
        self.trial = trial
        self.place = place
        self.model = model
        self.description = description
        self.history = TrainedHistory()
        self.best = np.nan
        self.way = ""
        self.callbacks: list[Any] = []
        self.stand_in: Any = None

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.trial.trial_id

    @property
    def epochs(self) -> int:
        """How many epochs it has been trained."""
        return len(self.history.epoch)

    def begin(self, callbacks: list[Any], template: Any) -> None:
        """Begins training, with own copies of `callbacks`."""
        self.stand_in = _StandIn(template)
        self.callbacks = copy.deepcopy(callbacks)
        for callback in self.callbacks:
            callback.set_model(self.stand_in)
            callback.on_train_begin()

    def epoch(self, log: dict[str, float], objective: Any) -> bool:
        """Takes what one epoch reports; returns whether it is the best so far."""
        for callback in self.callbacks:
            callback.on_epoch_end(self.epochs, dict(log))
        self.history.add(log)
        value = float(objective.get_value(log))
        if np.isnan(value) or not (np.isnan(self.best) or objective.better_than(value, self.best)):
            return False
        self.best = value
        return True

    def why_stop(self, epochs: int) -> str | None:
        """Returns why it is to be trained no further, or `None`; empty where all is done."""
        if not np.isfinite(self.history.history["loss"][-1]):
            return ""
        if self.stand_in.stop_training:
            return f", stopped after {self.epochs} epochs by a callback"
        return "" if self.epochs >= epochs else None


class _StandIn:
    """What a callback sees in place of a model: enough to stop it."""

    def __init__(self, template: Any) -> None:
        self.template = template
        self.stop_training = False

    @property
    def metrics(self) -> list[Any]:
        return self.template.metrics

    def get_weights(self) -> list[Any]:
        return []  # The search itself keeps those of the best epoch.


class TrainedHistory(keras.callbacks.History):
    """The history of a model that `fit` has not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []

    def add(self, log: dict[str, float]) -> None:
        """Adds what one epoch reports."""
        self.epoch.append(len(self.epoch))
        for name, value in log.items():
            self.history.setdefault(name, []).append(value)


def largest_group(waiting: list[Member]) -> list[Member]:
    """Returns the members of the structure that most of them have."""
    groups: list[list[Member]] = []
    for member in waiting:
        for group in groups:
            if group[0].description == member.description:
                group.append(member)
                break
        else:
            groups.append([member])
    return max(groups, key=len, default=[])


_KEPT = 4
# CPU seconds of a step. What Keras spends on each step beside its arithmetic is of that order: a
# model whose share of a common step takes less is hardly cheaper alone.
_SURELY_PAYS = 0.01


class Program:
    """What trains the trials of one structure, and how long it takes.

    Attributes:
        model: The stacked model, or `None` where they are trained alone.
        because: Why they are trained alone, or `None`.
        together: CPU seconds of an epoch, for one model of a full population.
        alone: CPU seconds of an epoch of one model trained alone, or `None` if not measured.
    """

    def __init__(self, description: Description, model: Any, because: str | None) -> None:
        self.description = description
        self.model = model
        self.because = because
        self.epochs = 0
        self.together = np.inf
        self.alone: float | None = None

    def measure(self, seconds: float) -> None:
        """Takes what an epoch of all places took; the first one is compiled."""
        self.epochs += 1
        if self.epochs > 1:
            self.together = min(self.together, seconds / self.model.size)

    def compare(self, alone: float) -> None:
        """Takes what an epoch of one model takes, and decides for what is cheaper."""
        self.alone = alone
        if alone < self.together:
            self.because = (
                f"an epoch takes {alone:.2g} s of a processor alone and {self.together:.2g} s "
                "for each in a population"
            )


class Population:
    """Draws trials, and trains those of one structure together, each in a place of its own.

    A place that becomes free, because its trial is done, stopped or diverged, is given to the next
    trial at once; nothing is compiled for it. Where training together is not possible, or measured
    not to pay, trials are handed back to be trained alone.

    Args:
        tuner: The tuner whose trials they are.
        fit: The arguments of `fit`, by name.
        rungs: Who is stopped early.
        build: Returns the model of a trial.
        finish: Called with a member, the way it went, and its best state or `None` if it is to be
            trained alone; returns the CPU seconds of an epoch, of one trained alone.
    """

    def __init__(
        self,
        tuner: Any,
        fit: dict[str, Any],
        rungs: Rungs,
        build: Callable[[Any], Any],
        finish: Callable[[Member, str, list[Any] | None], float | None],
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
        self.taken: set[int] = set()
        self.programs: list[Program] = []
        seed = int(np.random.SeedSequence([tuner.seed, 0]).generate_state(1)[0])
        self.generator = np.random.default_rng(seed)

    def run(self) -> None:
        """Trains all trials that the oracle gives."""
        while self._draw():
            group = largest_group(self.waiting)[: self.size]
            if not group:
                continue
            program = self._program(group)
            if program.because is None:
                self._train(program)
            else:
                for member in group:
                    self.waiting.remove(member)
                    self._alone(member, program.because)

    def _draw(self) -> bool:
        """Draws trials until a group is full, at most twice the population; false at the end."""
        while len(largest_group(self.waiting)) < self.size > len(self.waiting) / 2:
            member, status = self._create()
            if member is None:
                return bool(self.waiting) or status == "IDLE"
            self.waiting.append(member)
        return True

    def _create(self) -> tuple[Member | None, str]:
        place = next(i for i in range(len(self.taken) + 1) if i not in self.taken)
        trial = self.tuner.oracle.create_trial(f"{self.tuner.tuner_id}-{place}")
        if trial.status in ("STOPPED", "IDLE"):
            return None, trial.status
        self.taken.add(place)
        self.tuner.on_trial_begin(trial)
        try:
            model = self.build(trial)
            return Member(trial, place, model, describe(model)), trial.status
        except keras_tuner.errors.FatalError:
            raise
        except Exception as error:
            return Member(trial, place, error, {"builder raised": id(error)}), trial.status

    def _program(self, group: list[Member]) -> Program:
        """Returns what trains the models of `group`."""
        first = group[0]
        for program in self.programs:
            if program.description == first.description:
                return program
        if isinstance(first.model, Exception):
            return Program(first.description, None, "it cannot be built")
        if len(group) == 1:
            return Program(first.description, None, "it is the only one of its kind")
        because, model = why_model_cannot_stack(first.model), None
        if because is None:
            try:
                model = _together(first.model, len(group))
            except Exception as error:
                because = self._failed(error)
        program = Program(first.description, model, because)
        self.programs = [*self.programs[1 - _KEPT :], program]
        return program

    def _train(self, program: Program) -> None:
        """Trains members of one structure until no more come."""
        places: list[Member | None] = [None] * program.model.size
        while True:
            self._fill(program, places)
            if not any(places):
                return
            try:
                finished = self._epoch(program, places)
            except Exception as error:
                program.model, program.because = None, self._failed(error)
                for left in filter(None, places):
                    left.model = self.build(left.trial)
                    self._alone(left, program.because)
                return
            for member, way, arrays in finished:
                self._done(member, way, arrays)

    def _fill(self, program: Program, places: list[Member | None]) -> None:
        """Gives the free places to the next trials."""
        begun, fresh = [], {}
        for k, occupant in enumerate(places):
            if occupant is not None or program.because is not None:
                continue
            member = self._next(program.description)
            if member is not None and self._is_doubtful(program):
                seconds = self._alone(member, "it is measured whether training together pays")
                program.compare(np.inf if seconds is None else seconds)
                member = self._next(program.description) if program.because is None else None
            if member is None:
                break
            fresh[k] = member.model
            member.begin(self.fit.get("callbacks") or [], program.model.template)
            member.model = None  # Its weights are in their place.
            places[k] = member
            begun.append(member)
        if fresh:
            program.model.place(fresh)
        number = sum(occupant is not None for occupant in places)
        kind = "in a program compiled before" if program.epochs else "newly compiled"
        for new in begun:
            new.way = f"one of {number} trained together, {kind}"

    def _is_doubtful(self, program: Program) -> bool:
        doubtful = _SURELY_PAYS < program.together / self.steps < np.inf
        return doubtful and program.alone is None and self.epochs > 2

    def _next(self, description: Description) -> Member | None:
        """Returns the next trial of a structure, or `None` if none comes for now."""
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

    def _epoch(
        self, program: Program, places: list[Member | None]
    ) -> list[tuple[Member, str, list[Any]]]:
        """Trains one epoch; returns who is finished, having freed its place."""
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
        model.remember(
            np.array(
                [
                    member is not None and member.epoch(log, objective)
                    for member, log in zip(places, logs, strict=True)
                ]
            )
        )
        behind = self._behind(places)
        finished = []
        for k, member in enumerate(places):
            why = None if member is None else member.why_stop(self.epochs)
            if member is not None and why is None and member.name in behind:
                why = f", stopped after {member.epochs} epochs by successive halving"
            if member is not None and why is not None:
                finished.append((member, member.way + why, model.best_arrays(k)))
                places[k] = None
        return finished

    def _behind(self, places: list[Member | None]) -> list[str]:
        """Returns the names of those whom successive halving stops."""
        arrived: dict[int, dict[str, float]] = {}
        for member in filter(None, places):
            arrived.setdefault(member.epochs, {})[member.name] = member.best
        return [
            name
            for epoch, best in arrived.items()
            for name in self.rungs.arrive(epoch, self.epochs, best)
        ]

    def _alone(self, member: Member, because: str) -> float | None:
        return self._done(member, f"; alone, because {because}", None)

    def _done(self, member: Member, way: str, arrays: list[Any] | None) -> float | None:
        seconds = self.finish(member, way, arrays)
        self.taken.discard(member.place)
        return seconds

    def _failed(self, error: Exception) -> str:
        because = f"training together failed: {error!r}"
        warnings.warn(f"Trained one after the other: {because}", stacklevel=4)
        return because


def _together(template: Any, size: int) -> Any:
    """Returns what trains models like `template` at once on this backend, which it imports."""
    if keras.backend.backend() == "jax":
        from kerastools.search._stacked.vmapped_model import VmappedModel

        return VmappedModel(template, size)
    from kerastools.search._stacked.stacked_model import StackedModel

    return StackedModel(template, size)
