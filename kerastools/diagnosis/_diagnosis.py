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
        """Returns a fixed model with what was changed; the diagnosed one is left alone.

        Structure is fixed first (input normalization, output activation and loss, logistic hidden
        layers, dropout, regularizers, constraints), then the kernels of the guilty layers, drawn
        again by `initialize` and if that is not enough scaled by `calibrate`, and last batch size
        and learning rate. After each change the model is diagnosed again and trained for a short
        time, on copies; a change that makes an output worse, or brings a new fault and no gain, is
        undone, and the report says so. Gates, outputs, frozen layers, biases and what looks up
        integers stay as their author made them. What only the data can fix is not touched: labels
        that are absent or contradict each other, constant features.

        A short training takes 30 to 200 steps, about two seconds; there is one for the untouched
        model, and one for each change.

        Args:
            seed: Integer that makes the new weights repeatable.

        Returns:
            A `Repair`: `print` it; `.model` is the fixed model, `.verified` whether something was
            changed, the second diagnosis found nothing, and after a short training an output of it
            is better than that of the untouched model trained alike, and none is worse.

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
