"""The dropout layers of a model whose rate is mutable, and the usual rates."""

from collections.abc import Iterable
from typing import Any

import keras

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.fans import num_gates
from kerastools._core.graph.layer_tree import LayerTree
from kerastools.layers._mutable_rate import MutableRateLayer

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def mutable_dropout(model: Any, selector: Any, caller: str) -> list[MutableRateLayer]:
    """Returns the layers with a mutable rate among those that `selector` names, or raises."""
    chosen = LayerTree(model).select(selector, caller)
    found = [layer for layer in chosen if isinstance(layer, MutableRateLayer)]
    if not found:
        raise ValueError(
            f'{caller} found no dropout layer with a mutable rate in model "{model.name}" for '
            f"layers={selector!r}. Keras's own Dropout keeps the rate it was compiled with: use "
            "kerastools.layers.Dropout, or insert it with "
            "kerastools.regularization.regularize(model, dropout=...)."
        )
    return found


def set_rate(layers: Iterable[MutableRateLayer], rate: float) -> None:
    """Sets the rate of every layer."""
    for layer in layers:
        layer.rate = rate


def usual_range(model: Any) -> tuple[float, float]:
    """Returns the rates that are usual for the kind of net that `model` is."""
    parts = sublayers(model)
    if any(num_gates(part) for part in parts):
        return 0.2, 0.3
    if any(isinstance(part, _CONVOLUTIONS) for part in parts):
        return 0.4, 0.5
    return 0.1, 0.5
