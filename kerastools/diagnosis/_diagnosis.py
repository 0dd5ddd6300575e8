"""What `diagnose` found."""

from dataclasses import dataclass
from typing import Any

from kerastools._core._table import format_table
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._layer_signal import LayerSignal
from kerastools.diagnosis._plot import plot_signals


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; printing it shows the findings as a table.

    Attributes:
        model: Name of the model.
        loss: Loss of the batch that was run.
        num_rows: Rows of that batch.
        findings: What is wrong, most telling first; empty on a sound net.
        signals: The figures of each layer, in the order of computation.
    """

    model: str
    loss: float
    num_rows: int
    findings: tuple[Finding, ...]
    signals: tuple[LayerSignal, ...]

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
            "signals": [signal.to_dict() for signal in self.signals],
        }

    def plot(self, target: Any = None) -> Any:
        """Draws the forward signal and the gradient of each layer with a kernel, on a log scale.

        Args:
            target: Matplotlib axes to draw on, or the path of a picture to write (its ending says
                the format, such as `.png`). By default a new figure, which is not shown.

        Returns:
            The matplotlib axes.

        Raises:
            ImportError: If matplotlib is missing; `pip install 'kerastools[plot]'` brings it.
        """
        return plot_signals(self.model, self.signals, target)
