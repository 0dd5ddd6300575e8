"""Asynchronous successive halving (ASHA): early stopping of trials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerastools._core.checks import require_at_least


@dataclass(frozen=True)
class SuccessiveHalving:
    """Asynchronous successive halving (ASHA): trials that are behind at a rung are stopped.

    Pass it as `PopulationTuner(..., halving=SuccessiveHalving())` if a few epochs distinguish bad
    configurations from good ones. Rungs are at m, mη, mη², … epochs, with m = `min_epochs` and
    η = `factor`. A trial passes a rung if its best value so far is among the best n/η (rounded
    down, at least 1) of the n trials that have reached the rung, itself included; trials that
    arrive together are compared together. Otherwise it ends as completed, with the score of its
    best epoch. Trials do not wait for others, so the first to arrive pass; of many trials about one
    in η does. With `OptunaOracle(storage=...)` the trials of all processes are compared.

    Args:
        factor: η > 1, the reduction factor: one in η trials passes a rung.
        min_epochs: m, the number of epochs of every trial.

    Raises:
        ValueError: If `factor` <= 1 or `min_epochs` < 1.

    Example:

    >>> halving = SuccessiveHalving(factor=3, min_epochs=1)
    >>> halving.rungs(20)
    [1, 3, 9]
    >>> losses = {"0": 0.9, "1": 0.5, "2": 0.7, "3": 0.4}
    >>> halving.passes("3", losses, better_than=lambda a, b: a < b)
    True

    Reference: Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar, "A system
    for massively parallel hyperparameter tuning", MLSys 2020.
    """

    factor: float = 3
    min_epochs: int = 1

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise ValueError(
                "SuccessiveHalving needs a reduction factor > 1. Received "
                f"factor={self.factor}. With factor=3, one in three trials passes a rung."
            )
        require_at_least(1, "SuccessiveHalving", min_epochs=self.min_epochs)

    def rungs(self, epochs: int) -> list[int]:
        """Returns the epochs, out of `epochs`, after which trials are compared."""
        found: list[int] = []
        rung = float(self.min_epochs)
        while round(rung) < epochs:
            found += [round(rung)] if round(rung) not in found else []
            rung *= self.factor
        return found

    def passes(self, name: str, values: Mapping[str, float], better_than: object) -> bool:
        """Whether trial `name` passes a rung, given the `values` of all trials that reached it."""
        better: int = sum(better_than(value, values[name]) for value in values.values())  # type: ignore[operator]
        return not np.isnan(values[name]) and better < max(1, int(len(values) / self.factor))


class Rungs:
    """Records the values of trials at each rung and decides which trials stop.

    Args:
        halving: The rule; with `None`, no trial stops.
        objective: The objective of the search.
        share: Publishes values after an epoch to other processes, and returns the values of all
            trials by name. By default there are no other processes.
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
        """Returns which trials stop after `epoch` of `epochs` epochs, given their best values."""
        if self.halving is None or epoch not in self.halving.rungs(epochs):
            return []
        rung = self.values.setdefault(epoch, {})
        rung.update(self.share(epoch, best) | best)
        # A trial that diverged ranks last.
        numbers = {name: value for name, value in rung.items() if not np.isnan(value)}
        better = self.objective.better_than
        return [
            name
            for name in best
            if name not in numbers or not self.halving.passes(name, numbers, better)
        ]

    def state(self) -> list[Any]:
        """Returns the values, ready for JSON."""
        return [[epoch, values] for epoch, values in self.values.items()]

    def load(self, state: Sequence[Any], finished: Sequence[str]) -> None:
        """Restores what `state` returned, for the trials that are finished."""
        self.values = {
            epoch: {name: value for name, value in values.items() if name in finished}
            for epoch, values in state
        }
