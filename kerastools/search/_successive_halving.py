"""Asynchronous successive halving (ASHA): early stopping of trials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SuccessiveHalving:
    """Asynchronous successive halving (ASHA): trials that are behind at a rung are stopped.

    Give it to `PopulationTuner(..., halving=SuccessiveHalving())` where a few epochs tell a bad
    configuration from a good one. Rungs stand at m, mη, mη², … epochs, with m = `min_epochs` and
    η = `factor`. A trial that comes to one stays if its best value so far is among the best n/η
    (rounded down, but at least the best one) of the n trials that have come there, itself included;
    trials that arrive together are compared together. Otherwise it ends there, completed, with the
    score of its best epoch. Nobody waits for others, so that the first to arrive stay: of many
    trials about one in η passes a rung. With `OptunaOracle(storage=...)` the trials of all
    processes are compared.

    Args:
        factor: η, above 1: of how many trials one passes.
        min_epochs: m, the epochs that every trial is given.

    Raises:
        ValueError: If `factor` is not above 1 or `min_epochs` below 1.

    Example:

    >>> halving = SuccessiveHalving(factor=3, min_epochs=1)
    >>> halving.rungs(20)
    [1, 3, 9]
    >>> losses = {"0": 0.9, "1": 0.5, "2": 0.7, "3": 0.4}
    >>> halving.stays("3", losses, better_than=lambda a, b: a < b)
    True

    Reference: Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar, "A system
    for massively parallel hyperparameter tuning", MLSys 2020.
    """

    factor: float = 3
    min_epochs: int = 1

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise ValueError(
                "SuccessiveHalving needs a factor above 1, of how many trials one passes a rung. "
                f"Received factor={self.factor}."
            )
        if int(self.min_epochs) != self.min_epochs or self.min_epochs < 1:
            raise ValueError(
                "SuccessiveHalving needs min_epochs to be an integer from 1. Received "
                f"min_epochs={self.min_epochs}."
            )

    def rungs(self, epochs: int) -> list[int]:
        """Returns after which epochs, of `epochs` in all, trials are compared."""
        found: list[int] = []
        rung = float(self.min_epochs)
        while round(rung) < epochs:
            found += [round(rung)] if round(rung) not in found else []
            rung *= self.factor
        return found

    def stays(self, name: str, values: Mapping[str, float], better_than: object) -> bool:
        """Returns whether the trial `name` passes the rung at which trials had these `values`."""
        better: int = sum(better_than(value, values[name]) for value in values.values())  # type: ignore[operator]
        return not np.isnan(values[name]) and better < max(1, int(len(values) / self.factor))


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
