"""What an activation is called, whether a string, a function, a layer or an operation."""

from typing import Any

import keras

from kerastools._core.graph.kinds import is_kind, kind_of


def activation_name(activation: Any) -> str:
    """Returns the name of an activation in snake case; `"linear"` for `None`.

    Takes what Keras takes as an activation, and layers and operations that are one. What has no
    such name is shown by its class, as in `"Swish()"`.
    """
    if activation is None:
        return "linear"
    if isinstance(activation, str):
        activation = keras.activations.get(activation)
    if is_activation(activation):
        return kind_of(activation).activation or activation_name(activation.activation)
    return getattr(activation, "__name__", f"{type(activation).__name__}()")


def is_activation(operation: Any) -> bool:
    """Tells whether a layer or operation of a graph is an activation and nothing else."""
    return is_kind(operation, "activation")


def own_activation(layer: Any) -> Any:
    """Returns the activation that a layer applies itself, or `None` where it is linear."""
    if is_activation(layer):
        return layer
    activation = getattr(layer, "activation", None)
    return None if activation_name(activation) == "linear" else activation
