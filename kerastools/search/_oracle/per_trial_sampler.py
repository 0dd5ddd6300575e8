"""A sampler of Optuna whose draws depend on the seed and the trial's number alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler


class PerTrialSampler(BaseSampler):
    """Makes a new sampler for every trial, seeded by `SeedSequence([seed, trial.number])`.

    A search that is resumed would otherwise repeat the draws it began with, and processes with one
    seed would all draw the same.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make = make
        self.seed = seed
        self._number: int | None = None
        self._sampler: Any = None

    def _of(self, trial: Any) -> BaseSampler:
        if trial.number != self._number:
            sequence = np.random.SeedSequence([self.seed, trial.number])
            self._sampler = self.make(int(sequence.generate_state(1)[0]))
            self._number = trial.number
        return self._sampler

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        """Returns what the trial's sampler does."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        """Returns what the trial's sampler does."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        """Returns what the trial's sampler does."""
        return self._of(trial).sample_independent(study, trial, name, distribution)

    def before_trial(self, study: Any, trial: Any) -> None:
        """Does what the trial's sampler does."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: Any, trial: Any, state: optuna.trial.TrialState, values: Any
    ) -> None:
        """Does what the trial's sampler does."""
        self._of(trial).after_trial(study, trial, state, values)
