"""How far a schedule of phases has come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kerastools.callbacks._freeze.phase import Phase
from kerastools.callbacks._freeze.plateau import Plateau
from kerastools.optimizers._base.slots import slot_variables


@dataclass
class Progress:
    """Where in its phase a run stands; plain numbers, but for the best state.

    Attributes:
        phase: The number of the phase, counted from 0.
        epochs: How many epochs have ended in it.
        steps: How many training steps have been made in it.
        values: What the phase's `Plateau` monitors, one value per epoch.
        done: Whether the phase's `until` has been met.
        best: Weights and slots of the best epoch, if they shall be restored.
    """

    phase: int
    epochs: int = 0
    steps: int = 0
    values: list[float] = field(default_factory=list)
    done: bool = False
    best: list[Any] | None = None

    @classmethod
    def at(cls, epoch: int, phases: Sequence[Phase]) -> "Progress":
        """Returns where `epoch` stands in a schedule.

        Raises:
            ValueError: If a phase before it does not count epochs alone.
        """
        left = epoch
        for i, phase in enumerate(phases[:-1]):
            if left == 0:
                return cls(i)
            if phase.epochs is None or phase.steps is not None or phase.until is not None:
                raise ValueError(
                    f"FreezeSchedule cannot tell which phase epoch {epoch} belongs to: phase "
                    f"{phase.layers!r} lasts {phase.lasts()}. Go on with the object that was used "
                    "before, or begin with initial_epoch=0."
                )
            if left < phase.epochs:
                return cls(i, left)
            left -= phase.epochs
        return cls(len(phases) - 1, left)

    def ended(self, phase: Phase) -> bool:
        """Whether `phase` has come to its end."""
        return (
            self.done
            or (phase.epochs is not None and self.epochs >= phase.epochs)
            or (phase.steps is not None and self.steps >= phase.steps)
        )

    def end_epoch(self, phase: Phase, logs: dict[str, Any], model: Any) -> None:
        """Counts an epoch, looks whether `until` is met and keeps the state if it is the best."""
        self.epochs += 1
        until = phase.until
        if isinstance(until, Plateau):
            if until.monitor not in logs:
                raise ValueError(
                    f"Plateau needs {until.monitor!r} in the logs of every epoch. Received "
                    f"{', '.join(logs) or 'none'}. Pass validation_data to fit, or monitor another."
                )
            self.values.append(float(logs[until.monitor]))
            self.done = until.reached(self.values)
            if until.restore_best and until.best_epoch(self.values) == len(self.values) - 1:
                self.best = [keras.ops.convert_to_numpy(v) for v in _state(model)]
        elif until is not None:
            self.done = bool(until(self.epochs, logs))

    def restore_best(self, model: Any) -> None:
        """Puts weights and slots of the phase's best epoch back, if they were kept."""
        if self.best is not None:
            for variable, value in zip(_state(model), self.best, strict=True):
                variable.assign(value)
            self.best = None


def _state(model: Any) -> list[Any]:
    return [*model.weights, *slot_variables(model.optimizer)]
