"""`SearchReport`: the results of a search."""

from dataclasses import asdict, dataclass, field
from pprint import pformat
from typing import Any

import numpy as np

from kerastools._core.table import Printed, format_table
from kerastools.search._oracle.importance import importance
from kerastools.search._report.scale import Scale, scales_of

_ROWS = 10


@dataclass(frozen=True)
class TrialRecord:
    """One trial: hyperparameter values, as named in the builder, and result."""

    trial: str
    status: str
    score: float | None
    epoch: int | None
    values: dict[str, Any]
    message: str | None = None


@dataclass(frozen=True, repr=False)
class SearchReport(Printed):
    """Results of a search, which print as a table of the best trials.

    `tune` returns one; `SearchReport.of(tuner)` makes one from any keras-tuner tuner, even if the
    search is running or was stopped.

    Attributes:
        objective: Name of the optimized metric.
        direction: `"min"` or `"max"`.
        trials: A record of each trial that ended, in this order: `trial`, `status`, `score`,
            `epoch` (the best one, from 1), `values` and `message`.
        scales: The search space.
        importance: Importance of each hyperparameter by PED-ANOVA; empty below ten finished trials.
        model: The best model in the state of its best epoch, or `None`.

    Example:

    >>> scale = Scale("rate", 1e-3, 1e-1, log=True)
    >>> trials = (
    ...     TrialRecord("0", "COMPLETED", 0.5, 3, {"rate": 0.01}),
    ...     TrialRecord("1", "COMPLETED", 0.2, 5, {"rate": 0.03}),
    ... )
    >>> report = SearchReport("val_loss", "min", trials, (scale,))
    >>> print(report)
    2 trials; best val_loss 0.2 in trial 1
    trial   val_loss   epoch   rate
    ─────────────────────────────────
    1            0.2       5   0.03
    0            0.5       3   0.01
    """

    objective: str
    direction: str
    trials: tuple[TrialRecord, ...]
    scales: tuple[Scale, ...] = ()
    importance: dict[str, float] = field(default_factory=dict)
    model: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, tuner: Any, model: Any = None) -> "SearchReport":
        """Returns the report of a `keras_tuner.Tuner`.

        Args:
            tuner: The tuner.
            model: The best model, kept with the report.
        """
        oracle = tuner.oracle
        records = []
        for name in oracle.end_order:
            trial = oracle.trials[name]
            done = trial.status == "COMPLETED"
            last = (trial.message or "").strip().splitlines()[-1:]
            records.append(
                TrialRecord(
                    name,
                    trial.status,
                    float(trial.score) if done else None,
                    int(trial.best_step) + 1 if done else None,
                    dict(trial.hyperparameters.values),
                    None if done else "".join(last) or "failed",
                )
            )
        scales = scales_of(oracle.get_space())
        direction = oracle.objective.direction
        finished = [(r.score, r.values) for r in records if r.score is not None]
        return cls(
            oracle.objective.name,
            direction,
            tuple(records),
            scales,
            importance(finished, scales, direction),
            model,
        )

    @property
    def best(self) -> TrialRecord | None:
        """The best trial, or `None` if no trial finished."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[TrialRecord]:
        """Returns the finished trials, the best first."""
        sign = 1 if self.direction == "min" else -1
        done = [t for t in self.trials if t.score is not None and np.isfinite(t.score)]
        return sorted(done, key=lambda t: sign * float(t.score or 0.0))

    def shown(self, trial: TrialRecord) -> dict[str, Any]:
        """Returns the displayed values of a trial: γ instead of 1 − γ."""
        return {s.name: s.shown(trial.values[s.asked]) for s in self._by_importance(trial)}

    def __str__(self) -> str:
        ranked, failed = self.ranked(), [t for t in self.trials if t.score is None]
        count = f"{len(self.trials)} trials" + (f", {len(failed)} failed" if failed else "")
        if not ranked:
            reason = f": {failed[0].message}" if failed else ""
            return f"{count}; none finished{reason}"
        title = f"{count}; best {self.objective} {ranked[0].score:.4g} in trial {ranked[0].trial}"
        names = [scale.name for scale in self._by_importance()]
        rows = []
        for trial in ranked[:_ROWS]:
            values = self.shown(trial)
            rows.append(
                [trial.trial, trial.score, trial.epoch, *(_cell(values.get(n)) for n in names)]
            )
        table = format_table(["trial", self.objective, "epoch", *names], rows)
        text = f"{title}\n{table}"
        if self.importance:
            shares = ", ".join(f"{n} {share:.0%}" for n, share in self.importance.items())
            text += f"\nImportance: {shares}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the model, ready for JSON."""
        return {
            "objective": self.objective,
            "direction": self.direction,
            "importance": self.importance,
            "best": self.shown(self.best) if self.best else None,
            "trials": [asdict(trial) | {"shown": self.shown(trial)} for trial in self.trials],
            "scales": [asdict(scale) for scale in self.scales],
        }

    def snippet(self) -> str:
        """Returns Python code that builds a model with the best configuration.

        Raises:
            ValueError: If no trial finished.
        """
        if (best := self.best) is None:
            raise ValueError("SearchReport.snippet needs a finished trial. There is none.")
        shown = ", ".join(f"{k} {_cell(v)}" for k, v in self.shown(best).items())
        return (
            f"# {self.objective} {best.score:.4g}, the best of {len(self.trials)} trials, in epoch "
            f"{best.epoch}: {shown}\n"
            "import keras_tuner\n\n"
            "hp = keras_tuner.HyperParameters()\n"
            f"hp.values = {pformat(best.values, sort_dicts=False)}\n"
            "model = build(hp)  # build: the builder of the search\n"
        )

    def plot(self, target: Any = None) -> Any:
        """Plots the best score so far, parallel coordinates, and a slice for each hyperparameter.

        A slice is the score over one hyperparameter, with its importance; the best trial is a star.

        Args:
            target: Path of an image file to write, or matplotlib axes to draw on. By default, a new
                figure is drawn and not saved.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: If matplotlib is missing; `pip install 'kerastools[plot]'` brings it.
            ValueError: If no trial finished.
        """
        from kerastools.search._report.plots import plot_search

        return plot_search(self, target)

    def write_tensorboard(self, directory: Any) -> None:
        """Writes the trials for TensorBoard's HParams tab: `tensorboard --logdir DIRECTORY`.

        Args:
            directory: Directory of the event files, with a subdirectory for each finished trial.
        """
        from kerastools.search._report.tensorboard import write_hparams

        write_hparams(self, directory)

    def _by_importance(self, trial: TrialRecord | None = None) -> list[Scale]:
        own = [s for s in self.scales if trial is None or s.asked in trial.values]
        return sorted(own, key=lambda s: -self.importance.get(s.name, 0.0))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    # More digits near 1: what matters is the difference to 1.
    return f"{value:.5g}" if 0.9 < value < 1 else f"{value:.3g}"
