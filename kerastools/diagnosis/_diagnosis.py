"""What `diagnose` found."""

from dataclasses import dataclass, field
from typing import Any

from kerastools._core.keras_private.optimizer_hooks import strategy_scope
from kerastools._core.table import Printed, format_table
from kerastools.diagnosis._examine import examine
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._layer_signal import LayerSignal
from kerastools.diagnosis._plot import plot_signals
from kerastools.diagnosis._repair import Repair, repair
from kerastools.diagnosis._rules import RULES
from kerastools.diagnosis._subject import Subject


@dataclass(frozen=True, repr=False)
class Diagnosis(Printed):
    """What `diagnose` found; printing it shows the findings as a table.

    Attributes:
        model: Name of the model.
        loss: Loss of the batch that was run.
        num_rows: Rows of that batch.
        findings: What is wrong, most telling first; empty on a sound net.
        signals: The figures of each layer, in the order of computation.
        first_losses: The loss before each of the first steps that the optimizer takes on copies of
            the weights, and after the last; empty where no optimizer is known.
        subject: The model, data, loss and optimizer, which `repair` works on.
    """

    model: str
    loss: float
    num_rows: int
    findings: tuple[Finding, ...]
    signals: tuple[LayerSignal, ...]
    first_losses: tuple[float, ...] = ()
    subject: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        title = f'Diagnosis of "{self.model}": loss {self.loss:.4g} on {self.num_rows} rows; '
        if not self.findings:
            return title + "nothing wrong was found."
        rows = [
            (f.rule, f.layer, f"{f.value:.3g}", f"{f.threshold:.3g}", f"{f.evidence}\nFix: {f.fix}")
            for f in self.findings
        ]
        count = f"{len(rows)} finding{'s' if len(rows) > 1 else ''}."
        return format_table(
            ("rule", "layer", "value", "limit", "what was seen, and what mends it"),
            rows,
            title=title + count,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as dictionaries, lists and numbers, ready for JSON."""
        return {
            "model": self.model,
            "loss": self.loss,
            "num_rows": self.num_rows,
            "findings": [finding.to_dict() for finding in self.findings],
            "first_losses": list(self.first_losses),
            "signals": [signal.to_dict() for signal in self.signals],
        }

    def plot(self, target: Any = None) -> Any:
        """Draws the forward signal and the gradient of each layer with a kernel, on a log scale.

        Args:
            target: The path of a picture to write, or matplotlib axes to draw on. By default a new
                figure, which is neither written nor shown.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: If matplotlib is missing; `pip install 'kerastools[plot]'` brings it.
        """
        return plot_signals(self.model, self.signals, target)

    def repair(self, seed: int | None = None) -> Repair:
        """Returns a mended model with what was changed; the diagnosed one is left alone.

        Structure is mended first (input normalisation, output activation, logistic hidden layers,
        dropout, constraints), then the weights, by `initialize` and if that is not enough by
        `calibrate`, and last batch size and learning rate. New weights are drawn only where a
        finding asks for them; a trained model then loses what it learnt. What only the data can
        mend is not touched: labels that are absent or contradict each other, constant features.
        The result is diagnosed again and trained for a few steps, on copies.

        Args:
            seed: Integer that makes the new weights repeatable.

        Returns:
            A `Repair`: `print` it; `.model` is the mended model, `.verified` whether the second
            diagnosis found nothing and the loss fell.

        Raises:
            ValueError: If a layer cannot be made again from its configuration.
        """
        with strategy_scope(self.subject.model):
            return repair(self, judge, seed)


def judge(subject: Subject) -> Diagnosis:
    """Returns the diagnosis of a subject whose arguments were checked."""
    evidence, num_rows = examine(subject)
    return Diagnosis(
        model=subject.model.name,
        loss=evidence.loss,
        num_rows=num_rows,
        findings=tuple(finding for rule in RULES for finding in rule(evidence)),
        signals=evidence.signals,
        first_losses=evidence.steps(1.0).losses if evidence.steps else (),
        subject=subject,
    )
