"""When a phase ends because nothing improves any more."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kerastools._core.registration import register


@register
@dataclass(frozen=True)
class Plateau:
    """Ends a `Phase` when a metric has not improved for some epochs.

    The metric improves when it beats its best value in this phase by more than `min_delta`; NaN
    never does. In the last phase of a schedule the plateau ends training.

    Args:
        monitor: A key of the epoch's logs, such as `"val_loss"` or `"val_accuracy"`.
        patience: How many epochs without improvement end the phase, at least 1.
        min_delta: By how much a value must beat the best to count, in units of the metric, >= 0.
        mode: `"min"` or `"max"`, whether smaller or larger is better. None: smaller for names that
            contain "loss" or "error", larger for those that contain "acc" or "auc".
        restore_best: Whether the next phase begins with the weights and optimizer slots of the
            phase's best epoch; iterations and learning-rate schedule go on. In the last phase
            training ends with them.

    Raises:
        ValueError: If a number is out of range, or `mode` is neither given nor clear.

    Example:

    >>> plateau = Plateau("val_loss", patience=2)
    >>> [plateau.reached(values) for values in ([3.0, 2.0, 2.5], [3.0, 2.0, 2.5, 2.0])]
    [False, True]
    """

    monitor: str = "val_loss"
    patience: int = 2
    min_delta: float = 0.0
    mode: str | None = None
    restore_best: bool = False

    def __post_init__(self) -> None:
        if int(self.patience) != self.patience or self.patience < 1:
            raise ValueError(
                f"Plateau needs patience to be an integer >= 1. Received {self.patience!r}."
            )
        if not 0 <= float(self.min_delta) < float("inf"):
            raise ValueError(f"Plateau needs min_delta >= 0. Received {self.min_delta!r}.")
        if self._sign() is None:
            raise ValueError(
                f'Plateau needs mode="min" or mode="max" for {self.monitor!r}. Received '
                f"mode={self.mode!r}."
            )

    def best_epoch(self, values: Sequence[float]) -> int:
        """Returns the index of the last of `values` that was an improvement; 0 for the first."""
        best, at, sign = float("-inf"), 0, self._sign() or 1
        for i, value in enumerate(values):
            if sign * value > best + self.min_delta:
                best, at = sign * value, i
        return at

    def reached(self, values: Sequence[float]) -> bool:
        """Whether the phase ends, given the metric's value in each of its epochs."""
        return len(values) - 1 - self.best_epoch(values) >= self.patience

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Plateau":
        """Returns the plateau that `get_config` described."""
        return cls(**config)

    def __str__(self) -> str:
        return f"{self.monitor} plateau of {self.patience}"

    def _sign(self) -> int | None:
        signs = {"min": -1, "max": 1}
        if self.mode is not None:
            return signs.get(self.mode)
        if any(part in self.monitor for part in ("acc", "auc")):
            return 1
        return -1 if any(part in self.monitor for part in ("loss", "error")) else None
