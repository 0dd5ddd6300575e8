"""`Scale`: the range of a hyperparameter, for tables and plots."""

from dataclasses import dataclass
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import hyperparameters

_COMPLEMENT = "1 - "  # Prefix of momentum and betas in the search spaces of kerastools.search.


@dataclass(frozen=True)
class Scale:
    """The range of a hyperparameter; `1 - momentum` is displayed as momentum.

    Attributes:
        asked: Its name in the builder.
        low: Minimum, of a number.
        high: Maximum, of a number.
        log: Whether the scale is logarithmic.
        choices: The values of a categorical hyperparameter.
    """

    asked: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The name to display."""
        return self.asked.removeprefix(_COMPLEMENT)

    @property
    def complement(self) -> bool:
        """Whether the builder samples one minus the displayed value."""
        return self.asked.startswith(_COMPLEMENT)

    def shown(self, value: Any) -> Any:
        """Returns the value to display."""
        if isinstance(value, float):
            return round(1 - value, 10) if self.complement else float(f"{value:.10g}")
        return value

    def position(self, value: Any) -> float:
        """Returns the position of a value in the range, from 0 to 1."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        if self.low == self.high:
            return 0.5
        low, high, at = (
            np.log((self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        position = float((at - low) / (high - low))
        return 1 - position if self.complement else position

    def ticks(self) -> list[tuple[float, str]]:
        """Returns positions and labels for an axis."""
        if self.choices:
            return [(self.position(c), str(c)) for c in self.choices]
        if self.log:
            exponents = np.linspace(np.log10(self.low), np.log10(self.high), 4)
            values = [self.low, *10 ** exponents[1:-1], self.high]
        else:
            values = [self.low, (self.low + self.high) / 2, self.high]
        return [(self.position(v), _short(1 - v if self.complement else v)) for v in values]


def scales_of(space: keras_tuner.HyperParameters) -> tuple[Scale, ...]:
    """Returns the scales of a space; hyperparameters of one name share a scale."""
    scales: dict[str, Scale] = {}
    for hyperparameter in space.space:
        name = hyperparameter.name
        if isinstance(hyperparameter, hyperparameters.Fixed):
            continue
        if isinstance(hyperparameter, hyperparameters.Boolean):
            new = Scale(name, choices=(False, True))
        elif isinstance(hyperparameter, hyperparameters.Choice):
            new = Scale(name, choices=tuple(hyperparameter.values))
        else:
            low, high = hyperparameter.min_value, hyperparameter.max_value
            new = Scale(name, low, high, hyperparameter.sampling == "log")
        old = scales.get(name, new)
        scales[name] = Scale(
            name,
            min(old.low, new.low),
            max(old.high, new.high),
            old.log and new.log,
            (*old.choices, *(c for c in new.choices if c not in old.choices)),
        )
    return tuple(scales.values())


def _short(value: float) -> str:
    """Returns a label, with more digits near 1."""
    return f"{value:.4g}" if abs(value) >= 0.9 else f"{value:.2g}"
