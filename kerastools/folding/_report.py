"""What became of each batch normalisation."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from kerastools._core.table import Printed, format_table


@dataclass(frozen=True)
class FoldOutcome:
    """What became of one layer that computes a⊗x + b in inference.

    Attributes:
        layer: Its name, after the names of the nested models that hold it.
        kind: What it is: `"batch_normalization"`, `"feature_normalization"` (`Normalization`) or
            `"rescaling"`.
        into: The layers that took it in, or `None` if it was kept.
        reason: Why it was kept, or `None` if it was folded.
    """

    layer: str
    kind: str
    into: str | None
    reason: str | None


@dataclass(frozen=True, repr=False)
class FoldReport(Printed):
    """What `fold_batch_norm` did; printed, it is a table with a line per layer it looked at.

    Attributes:
        model: Name of the model.
        outcomes: One `FoldOutcome` per call of a batch normalisation, `Normalization` or
            `Rescaling`, in the model's order.
        num_layers: Layers before and after, those of nested models included.
        num_parameters: Weights before and after.
        largest_difference: max |y − y'| / max |y| between the outputs y of the model and y' of the
            folded one, of the worst output; `None` if it was called without `sample`.
    """

    model: str
    outcomes: tuple[FoldOutcome, ...]
    num_layers: tuple[int, int]
    num_parameters: tuple[int, int]
    largest_difference: float | None = None

    @property
    def num_folded(self) -> int:
        """Batch normalisations that are gone."""
        return sum(outcome.into is not None for outcome in self._batch_norms)

    @property
    def num_kept(self) -> int:
        """Batch normalisations that stayed."""
        return len(self._batch_norms) - self.num_folded

    @property
    def _batch_norms(self) -> list[FoldOutcome]:
        return [o for o in self.outcomes if o.kind == "batch_normalization"]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain dictionaries, tuples and numbers."""
        counts = {"num_folded": self.num_folded, "num_kept": self.num_kept}
        return {**dataclasses.asdict(self), **counts}

    def __str__(self) -> str:
        rows = [
            (o.layer, f"folded into {o.into}" if o.into else f"kept: {o.reason}")
            for o in self.outcomes
        ]
        (layers, fewer_layers), (weights, fewer_weights) = self.num_layers, self.num_parameters
        title = (
            f'Model "{self.model}": {self.num_folded} of {self.num_folded + self.num_kept} batch '
            f"norms folded, {layers} layers became {fewer_layers}, {weights:,} parameters "
            f"{fewer_weights:,}"
        )
        if self.largest_difference is not None:
            title += f", outputs equal to {self.largest_difference:.1e}"
        table = format_table(("layer", "outcome"), rows)
        return f"{title}\n\n{table}" if rows else title
