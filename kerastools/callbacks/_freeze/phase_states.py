"""What the phases of a schedule do to a model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import kind_of
from kerastools._core.graph.layer_tree import LayerTree, TrainableState
from kerastools.callbacks._freeze.phase import Phase


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
