"""`ReuseDepth`: the result of `search_reuse_depth`."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kerastools._core.plotting import axes_for, finished
from kerastools._core.table import Printed, format_table

# Two-sided 95 % quantiles of Student's t for 1, 2, 3 ... degrees of freedom.
_STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


_COLUMNS = ("candidate", "epochs", "accuracy", "loss", "score against the best, 95 %")


@dataclass(frozen=True)
class CutScore:
    """Scores of the features of one cut, without training.

    Attributes:
        upto: The last reused layer.
        probe: Cross-validated accuracy of a linear probe, one value per fold.
        log_me: Logarithm of the maximum evidence, per row; larger is better.
    """

    upto: str
    probe: tuple[float, ...]
    log_me: float


@dataclass(frozen=True)
class DepthResult:
    """Validation result of one candidate.

    Attributes:
        upto: The last reused layer, or `None` for training from scratch.
        frozen: Whether the reused layers were frozen.
        epochs: Number of epochs trained.
        accuracies: Validation accuracy of each repeat, averaged over five epochs of the last two
            fifths of the training.
        losses: Validation loss of each repeat (cross-entropy in nats), averaged in the same way.
        difference: Score of the best candidate after as many epochs, minus this one's: mean over
            the repeats and half width of its 95 % interval; `None` for the best one.
    """

    upto: str | None
    frozen: bool
    epochs: int
    accuracies: tuple[float, ...]
    losses: tuple[float, ...]
    difference: tuple[float, float] | None

    @property
    def mean_accuracy(self) -> float:
        """Mean of `accuracies`."""
        return float(np.mean(self.accuracies))

    @property
    def scores(self) -> tuple[float, ...]:
        """Score of each repeat: accuracy − loss / 10, the loss in nats."""
        pairs = zip(self.accuracies, self.losses, strict=True)
        return tuple(score_of(accuracy, loss) for accuracy, loss in pairs)

    @property
    def significant(self) -> bool:
        """Whether the best one is significantly better (95 %), selection bias not counted."""
        return self.difference is not None and self.difference[0] > self.difference[1]


@dataclass(frozen=True, repr=False)
class ReuseDepth(Printed):
    """Result of `search_reuse_depth`, which prints as tables.

    Attributes:
        scores: A `CutScore` for each cut, the lowest first.
        results: A `DepthResult` for each trained candidate, the best first.
        num_epochs: Total number of epochs trained.
        exhaustive_epochs: Number of epochs to train every candidate to the end in every repeat.
    """

    scores: tuple[CutScore, ...]
    results: tuple[DepthResult, ...]
    num_epochs: int
    exhaustive_epochs: int

    @property
    def upto(self) -> str | None:
        """The last layer to reuse, for `reuse_layers`; `None` if training from scratch is best."""
        return self.results[0].upto

    @property
    def frozen(self) -> bool:
        """Whether the reused layers are best frozen."""
        return self.results[0].frozen

    @property
    def conclusion(self) -> str:
        """The best candidate as text, and those that are not significantly worse."""
        best = self.results[0]
        spread = _spread(best.accuracies)
        equals = [_name(r) for r in self.results[1:] if not r.significant]
        text = f"Best: {_name(best)}, validation accuracy {spread}."
        if equals:
            text += f" No significant difference from: {'; '.join(equals)}."
        return text

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain data."""
        return asdict(self) | {"upto": self.upto, "frozen": self.frozen}

    def __str__(self) -> str:
        cheap = [(s.upto, _spread(s.probe), s.log_me) for s in self.scores]
        rows = [
            (
                _name(r),
                r.epochs,
                _spread(r.accuracies),
                _spread(r.losses),
                ""
                if r.difference is None
                else f"{0.0 - r.difference[0]:+.3f} ± {r.difference[1]:.3f}",
            )
            for r in self.results
        ]
        trained = (
            f"{self.num_epochs} epochs trained, of {self.exhaustive_epochs} for every candidate."
        )
        return "\n\n".join(
            [
                format_table(("reuse up to", "linear probe", "LogME"), cheap),
                format_table(_COLUMNS, rows),
                f"{self.conclusion}\n{trained}",
            ]
        )

    def plot(self, target: Any = None) -> Any:
        """Plots probe and validation accuracies over the depth of the cut.

        Args:
            target: Path of an image file to write, or matplotlib axes to draw on. By default, a new
                figure is drawn and not saved.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: If matplotlib is missing; `pip install 'kerastools[plot]'` brings it.
        """
        axes = axes_for(target, "ReuseDepth.plot")
        names = [s.upto for s in self.scores]
        probe = [np.mean(s.probe) for s in self.scores]
        axes.plot(range(1, len(names) + 1), probe, "^:", color="gray", label="linear probe")
        for frozen, color in ((True, "C0"), (False, "C1")):
            some = [r for r in self.results if r.upto is not None and r.frozen == frozen]
            positions = [names.index(r.upto) + 1 for r in some if r.upto is not None]
            means, spreads = ([f(r.accuracies) for r in some] for f in (np.mean, np.std))
            label = "frozen" if frozen else "tuned"
            shift = -0.06 if frozen else 0.06
            axes.errorbar(
                [p + shift for p in positions], means, spreads, fmt="o", color=color, label=label
            )
        (scratch,) = (r for r in self.results if r.upto is None)
        axes.errorbar(
            [0], [np.mean(scratch.accuracies)], [np.std(scratch.accuracies)], fmt="ks",
            label="from scratch",
        )  # fmt: skip
        for r in self.results:
            position = 0 if r.upto is None else names.index(r.upto) + 1
            side = -1 if r.frozen else 1
            axes.annotate(
                str(r.epochs),
                (position + (0.06 * side if r.upto else 0), float(np.mean(r.accuracies))),
                xytext=(6 * side, 0),
                textcoords="offset points",
                fontsize=8,
                ha="right" if r.frozen else "left",
                va="center",
            )
        axes.set_xticks(range(len(names) + 1), ["nothing", *names], rotation=30, ha="right")
        axes.set_xlabel("reused up to")
        axes.set_ylabel("accuracy ± standard deviation (and epochs trained)")
        axes.legend()
        return finished(axes.figure, target)


def score_of(accuracy: float, loss: float) -> float:
    """Returns accuracy − loss / 10: ten points of accuracy count as much as one nat.

    Accuracy on few rows is coarse, and the loss alone depends on single rows that are confidently
    wrong.
    """
    return accuracy - 0.1 * loss


def paired(best: list[float], other: list[float]) -> tuple[float, float]:
    """Returns mean and half width of the 95 % interval of best − other, paired by repeat."""
    differences = np.subtract(best, other)
    n = len(differences)
    if n < 2:
        return float(differences.mean()), float("inf")
    student = _STUDENT[n - 2] if n - 2 < len(_STUDENT) else 2.2
    return float(differences.mean()), float(student * differences.std(ddof=1) / np.sqrt(n))


def _name(result: DepthResult) -> str:
    if result.upto is None:
        return "from scratch"
    return f"{result.upto}, {'frozen' if result.frozen else 'tuned'}"


def _spread(values: tuple[float, ...]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} ± {deviation:.3f}"
