"""A trial that waits for a place in a population, or has one."""

import copy
from typing import Any

import keras
import numpy as np

from kerastools.search._reuse.description import Description


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
