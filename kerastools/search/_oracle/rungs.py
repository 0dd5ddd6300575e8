"""What the trials of a search had reached at each rung of successive halving."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kerastools.search._successive_halving import SuccessiveHalving


class Rungs:
    """Remembers the values at each rung and says who goes on.

    Args:
        halving: The rule, or `None`: then everybody goes on.
        objective: The search's objective.
        share: Tells other processes what trials have reached after an epoch, and returns what all
            have, by their names. By default no other process works on the search.
    """

    def __init__(
        self,
        halving: SuccessiveHalving | None,
        objective: Any,
        share: Callable[[int, dict[str, float]], dict[str, float]] = lambda epoch, best: best,
    ) -> None:
        self.halving = halving
        self.objective = objective
        self.share = share
        self.values: dict[int, dict[str, float]] = {}

    def arrive(self, epoch: int, epochs: int, best: dict[str, float]) -> list[str]:
        """Returns which trials stop after `epoch` epochs, where `best` are their best values."""
        if self.halving is None or epoch not in self.halving.rungs(epochs):
            return []
        rung = self.values.setdefault(epoch, {})
        rung.update(self.share(epoch, best) | best)
        # A trial that has diverged is behind all others.
        numbers = {name: value for name, value in rung.items() if not np.isnan(value)}
        better = self.objective.better_than
        return [
            name
            for name in best
            if name not in numbers or not self.halving.stays(name, numbers, better)
        ]

    def state(self) -> list[Any]:
        """Returns the values as plain data."""
        return [[epoch, values] for epoch, values in self.values.items()]

    def load(self, state: Sequence[Any], finished: Sequence[str]) -> None:
        """Takes over what `state` returned, of the trials that are finished."""
        self.values = {
            epoch: {name: value for name, value in values.items() if name in finished}
            for epoch, values in state
        }


class StopAtRung(keras.callbacks.Callback):
    """Stops the training of one model at the rung that it does not pass."""

    def __init__(self, rungs: Rungs, name: str, best: Any) -> None:
        super().__init__()
        self.rungs = rungs
        self.name = name
        self.best = best
        self.stopped = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compares the best value so far with what others had here."""
        value = np.nan if self.best.value is None else self.best.value
        if self.rungs.arrive(epoch + 1, self.params["epochs"], {self.name: value}):
            self.stopped = epoch + 1
            self.model.stop_training = True
