"""The layers, constraints and initializers in a configuration, exchanged for the other side's."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from kerastools import constraints, initializers, layers
from kerastools._core.graph.calls import sublayers

Description = dict[str, Any]
# Takes the description of a part, the layer it stands in and the argument; returns its twin's.
Swap = Callable[[Description, Any, str], Description]

_OURS = "kerastools>"
_ROOMS = {"layers": layers, "constraints": constraints, "initializers": initializers}


def exchanged(config: Any, swap: Swap, layer: Any, argument: str = "") -> Any:
    """Returns the configuration of `layer` with every part in it exchanged by `swap`."""
    if isinstance(config, list | tuple):
        return type(config)(exchanged(one, swap, layer, argument) for one in config)
    if not isinstance(config, dict):
        return config
    if isinstance(config.get("config"), dict) and "class_name" in config:
        layer = _inside(layer, config["config"].get("name"))
        inner = {k: exchanged(v, swap, layer, k) for k, v in config["config"].items()}
        return swap({**config, "config": inner}, layer, argument)
    return {key: exchanged(value, swap, layer, key) for key, value in config.items()}


def _inside(layer: Any, name: Any) -> Any:
    """Returns the only layer in `layer` of that name, or `layer`."""
    found = [one for one in sublayers(layer)[1:] if one.name == name]
    return found[0] if len(found) == 1 else layer


def of_ours(part: Description, layer: Any, argument: str) -> Description:
    """Returns the part of this package that stands for a dropout or constraint of Keras's."""
    room = str(part.get("module")).removeprefix("keras.")
    if room not in ("layers", "constraints") or part.get("registered_name"):
        return part
    if part["class_name"] not in _ROOMS[room].__all__:
        return part
    return {**part, "module": None, "registered_name": _OURS + part["class_name"]}


def of_keras(part: Description, layer: Any, argument: str) -> Description:
    """Returns Keras's part that stands for one of this package.

    Raises:
        ValueError: If it depends on more than Keras's can be told.
    """
    if not str(part.get("registered_name")).startswith(_OURS):
        return part
    name, config = part["class_name"], dict(part["config"])
    room = next((r for r, module in _ROOMS.items() if name in module.__all__), None)
    if name == "SpatialDropout":  # It has Keras's only rank by rank.
        rank = _rank(layer)
        name = "Dropout" if rank == 2 else f"SpatialDropout{rank - 2}D"
        if rank < 4:
            config.pop("data_format")
    if name == "MaxNorm":
        config["axis"] = _axes(part["config"]["axis"], layer, argument)
    if room == "initializers" and not hasattr(keras.initializers, name):
        name = "Orthogonal"
    if room is None or not hasattr(getattr(keras, room), name):
        return part
    if room == "initializers":
        # Keras's cannot be told the axes; what is initialized already does not need them.
        cls = getattr(keras.initializers, name)
        config = {k: v for k, v in config.items() if k in inspect.signature(cls).parameters}
    twin = {"module": f"keras.{room}", "class_name": name, "config": config}
    return {**part, **twin, "registered_name": None}


def _rank(layer: Any) -> int:
    try:
        return len(layer.input.shape)
    except AttributeError as error:
        raise ValueError(
            f'to_keras cannot tell the rank of what layer "{layer.name}" is called on, and Keras '
            "has spatial dropout by rank. Use kerastools.layers.SpatialDropout1D, 2D or 3D."
        ) from error


def _axes(axis: Any, layer: Any, argument: str) -> Any:
    """Returns the axes of a `MaxNorm` as Keras's takes them."""
    if not isinstance(axis, dict) and axis != "auto":
        return list(axis) if isinstance(axis, tuple) else axis
    held = getattr(layer, argument, None)
    bound = [v for v in layer.weights if isinstance(v.constraint, constraints.MaxNorm)]
    named = [v for v in bound if v.name == argument.removesuffix("_constraint")]
    named = named or [v for v in bound if v.constraint is held] or bound
    found = {v.constraint.axes_of(tuple(v.shape)) for v in named}
    if len(found) != 1:
        raise ValueError(
            f'to_keras received layer "{layer.name}" with one MaxNorm on weights of several '
            "layouts, where Keras's MaxNorm has one axis for all. Give each its own axis with "
            "kerastools.constraints.for_layer, or leave the constraint out."
        )
    return list(found.pop())


def leftovers(model: Any) -> list[str]:
    """Returns what of this package is in a model, as text."""
    found = []
    for layer in sublayers(model):
        if _is_ours(layer):
            found.append(f'layer "{layer.name}" ({type(layer).__name__})')
            continue
        for name, value in vars(layer).items():
            several = value if isinstance(value, list | tuple) else [value]
            found += [
                f'{name} of layer "{layer.name}" ({type(one).__name__})'
                for one in several
                if _is_ours(one) and not isinstance(one, keras.Layer | keras.optimizers.Optimizer)
            ]
    return found


def _is_ours(value: Any) -> bool:
    return any(cls.__module__.split(".")[0] == "kerastools" for cls in type(value).__mro__)
