"""A hyperparameter as a person reads it: its name, its range and where in it a value lies."""

from dataclasses import dataclass
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import hyperparameters

_COMPLEMENT = "1 - "  # How kerastools.search asks for momentum and betas.


@dataclass(frozen=True)
class Scale:
    """The range of a hyperparameter; `1 - momentum` is read as momentum.

    Attributes:
        asked: The name under which the builder asks for it.
        low: Smallest value, of those that have an order.
        high: Largest value.
        log: Whether equal ratios are equal steps.
        choices: The values, of those that have no order.
    """

    asked: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The name to show."""
        return self.asked.removeprefix(_COMPLEMENT)

    @property
    def complement(self) -> bool:
        """Whether what is asked for is one minus what is shown."""
        return self.asked.startswith(_COMPLEMENT)

    def shown(self, value: Any) -> Any:
        """Returns the value to show for one that was asked for."""
        if isinstance(value, float):
            return round(1 - value, 10) if self.complement else float(f"{value:.10g}")
        return value

    def place(self, value: Any) -> float:
        """Returns where in the range, from 0 to 1, a value lies that was asked for."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        if self.low == self.high:
            return 0.5
        low, high, at = (
            np.log((self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        place = float((at - low) / (high - low))
        return 1 - place if self.complement else place

    def ticks(self) -> list[tuple[float, str]]:
        """Returns places and labels for an axis."""
        if self.choices:
            return [(self.place(c), str(c)) for c in self.choices]
        if self.log:
            exponents = np.linspace(np.log10(self.low), np.log10(self.high), 4)
            values = [self.low, *10 ** exponents[1:-1], self.high]
        else:
            values = [self.low, (self.low + self.high) / 2, self.high]
        return [(self.place(v), _short(1 - v if self.complement else v)) for v in values]


def scales_of(space: keras_tuner.HyperParameters) -> tuple[Scale, ...]:
    """Returns the scales of a space; several of one name in other scopes are one."""
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
    """Returns a label; numbers near 1 need their digits."""
    return f"{value:.4g}" if abs(value) >= 0.9 else f"{value:.2g}"
