"""What each phase trains, how far a run has come, and what happened when a phase began."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import kind_of
from kerastools._core.graph.layer_tree import LayerTree, TrainableState
from kerastools.callbacks._freeze.phase import Phase, Plateau
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


class PhaseStates(NamedTuple):
    """Flags and rates of every phase.

    Attributes:
        owners: (path, layer) of the layers that have weights of their own, the lowest first.
        flags: For every phase, which layers and weights train.
        factors: For every phase, what single weights' learning rates are multiplied by, by id.
    """

    owners: list[tuple[str, Any]]
    flags: list[TrainableState]
    factors: list[dict[int, float]]


def find_states(model: Any, phases: Sequence[Phase], batch_norm: str) -> PhaseStates:
    """Finds the layers of every phase, and changes nothing.

    Raises:
        ValueError: If a layer is not found, or a phase would train nothing.
    """
    tree = LayerTree(model)
    norms = [a for a in sublayers(model) if kind_of(a).moving_statistics]
    states = PhaseStates(tree.owners(), [], [])
    for phase in phases:
        layers = tree.select(phase.layers, "FreezeSchedule")
        if not tree.weights_of(layers):
            raise ValueError(
                f"FreezeSchedule needs phases that train something. Received the phase "
                f"{phase.layers!r}, whose layers "
                f"{', '.join(layer.name for layer in layers[:5])} have no trainable weights."
            )
        if batch_norm == "train":
            layers = [*layers, *norms]
        states.flags.append(tree.state_training(layers))
        factors: dict[int, float] = {}
        if phase.layer_decay is not None:
            for i, level in enumerate(tree.levels(phase.layers, "FreezeSchedule")):
                factors |= dict.fromkeys(map(id, level), phase.layer_decay**i)
        states.factors.append(factors)
    return states
