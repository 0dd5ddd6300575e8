"""What happened when a phase began."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Transition:
    """One begin of a phase, as `FreezeSchedule.history` lists them.

    Attributes:
        epoch: The epoch before which, or in which, the phase began; counted from 0 as in
            `History.epoch`.
        step: How many steps of that epoch came before.
        phase: The number of the phase, counted from 0.
        layers: What it trains, as it was written.
        trained: The paths of the layers that train and have weights, the lowest first.
        num_steps: How many steps an epoch has, if that was known.
    """

    epoch: int
    step: int
    phase: int
    layers: Any
    trained: tuple[str, ...]
    num_steps: int | None
