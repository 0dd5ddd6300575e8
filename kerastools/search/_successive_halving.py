"""Stopping the worse part of the trials early, again and again."""

from collections.abc import Mapping
from dataclasses import dataclass

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
