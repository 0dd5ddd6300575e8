"""The dropout layers of a model whose rate is mutable, and the usual rates."""

from collections.abc import Iterable
from typing import Any

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools._core.graph.layer_tree import LayerTree
from kerastools._core.keras_private.training import FitEnd, require_sole_owner
from kerastools.layers._mutable_rate import MutableRateLayer

_CONVOLUTIONS = (
    "convolution",
    "depthwise_convolution",
    "separable_convolution",
    "transposed_convolution",
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


def borrowed_dropout(callback: Any) -> tuple[list[MutableRateLayer], FitEnd]:
    """Returns the layers whose rate `callback` sets, and what gives them their rates of now back.

    Raises:
        ValueError: If no rate is mutable, or another callback of the same `fit` sets one of them.
    """
    found = mutable_dropout(callback.model, callback.layers, caller=type(callback).__name__)
    require_sole_owner(callback)
    rates = [layer.rate for layer in found]

    def give_back() -> None:
        for layer, rate in zip(found, rates, strict=True):
            layer.rate = rate

    return found, FitEnd(callback.model, give_back)


def names_of_rates(callback: Any) -> set[str]:
    """Returns the names of the rates that `callback` sets."""
    found = mutable_dropout(callback.model, callback.layers, caller=type(callback).__name__)
    return {f"the rate of {layer.path}" for layer in found}


def usual_range(model: Any) -> tuple[float, float]:
    """Returns the rates that are usual for the kind of net that `model` is."""
    return {"recurrent": (0.2, 0.3), "convolutional": (0.4, 0.5), "dense": (0.1, 0.5)}[
        net_kind(model)
    ]


def net_kind(model: Any) -> str:
    """Returns `"recurrent"`, `"convolutional"` or `"dense"`, by the layers of `model`."""
    parts = sublayers(model)
    if any(is_kind(part, "recurrent", "bidirectional") for part in parts):
        return "recurrent"
    return "convolutional" if any(is_kind(p, *_CONVOLUTIONS) for p in parts) else "dense"
