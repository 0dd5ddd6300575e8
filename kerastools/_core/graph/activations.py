"""What an activation is called, whether a string, a function, a layer or an operation."""

from typing import Any

import keras

# Layers and operations whose class name is not the function's name in snake case.
_ALIASES = {"re_lu": "relu", "pre_lu": "prelu", "leaky_re_lu": "leaky_relu"}

_ACTIVATION_LAYERS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
    keras.layers.Softmax,
)

# Names of the functions, which are also the names of the operations behind `keras.ops`.
_NAMES = {name for name in dir(keras.activations) if name[0].islower()} - {
    "deserialize",
    "get",
    "serialize",
}


def activation_name(activation: Any) -> str:
    """Returns the name of an activation in snake case; `"linear"` for `None`.

    Takes what Keras takes as an activation, and layers and operations that are one.
    """
    if activation is None:
        return "linear"
    if isinstance(activation, str):
        activation = keras.activations.get(activation)
    if isinstance(activation, keras.layers.Activation):
        activation = activation.activation
    if isinstance(activation, keras.layers.Layer | keras.Operation):
        name = _snake_case(type(activation).__name__)
    else:
        name = getattr(activation, "__name__", _snake_case(type(activation).__name__))
    return _ALIASES.get(name, name)


def is_activation(operation: Any) -> bool:
    """Tells whether a layer or operation of a graph is an activation and nothing else."""
    if isinstance(operation, (keras.layers.Activation, *_ACTIVATION_LAYERS)):
        return True
    return not isinstance(operation, keras.layers.Layer) and activation_name(operation) in _NAMES


def own_activation(layer: Any) -> Any:
    """Returns the activation that a layer applies itself, or `None` where it is linear."""
    if is_activation(layer):
        return layer
    activation = getattr(layer, "activation", None)
    return None if activation_name(activation) == "linear" else activation


def _snake_case(name: str) -> str:
    pieces = [
        f"_{c.lower()}" if c.isupper() and i and not name[i - 1].isupper() else c.lower()
        for i, c in enumerate(name)
    ]
    return "".join(pieces)
