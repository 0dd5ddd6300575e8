"""Checks of what users pass in; each error says what arrived, what was expected, how to mend it."""

from typing import Any

import keras
import numpy as np


def require_model(model: Any, caller: str) -> None:
    """Raises `TypeError` unless `model` is a `keras.Model`."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{caller} needs a keras.Model. Received {model!r} of type {type(model).__name__}."
        )


def require_built(model: Any, caller: str) -> None:
    """Raises unless `model` is a `keras.Model` whose weights exist."""
    require_model(model, caller)
    if not model.built:
        raise ValueError(
            f'{caller} needs a built model. Received model "{model.name}" without weights. '
            "Call model.build(input_shape) first, or start the model with keras.Input(shape)."
        )


def require_graph(model: Any, caller: str) -> None:
    """Raises unless `model` is a built functional or Sequential model, whose graph can be read."""
    require_built(model, caller)
    try:
        readable = bool(model.inputs) and bool(model.outputs)
    except (AttributeError, ValueError):
        readable = False
    if not readable:
        raise ValueError(
            f"{caller} needs a functional or Sequential model, because it reads the graph of "
            f'layers. Received model "{model.name}" of the subclass {type(model).__name__}, whose '
            "call() is Python code. Rebuild it as keras.Model(inputs, outputs), or pass its "
            "functional part."
        )


def require_at_least(least: int, caller: str, **numbers: Any) -> None:
    """Raises unless each argument is an integer of at least `least`."""
    for name, number in numbers.items():
        if isinstance(number, bool) or int(number) != number or number < least:
            raise ValueError(
                f"{caller} needs {name} >= {least}, an integer. Received {name}={number!r}."
            )


def require_array(name: str, values: Any, caller: str) -> np.ndarray:
    """Returns `values` as an array, or raises if it is a dataset or another object."""
    if not (hasattr(values, "__array__") or isinstance(values, list | tuple | int | float)):
        raise ValueError(
            f"{caller} needs arrays. Received {name} of type {type(values).__name__}. Pass the "
            "rows of a dataset as arrays."
        )
    return np.asarray(values)


def require_finite(name: str, values: Any, caller: str) -> np.ndarray:
    """Returns `values` as an array, or raises if it is empty or holds NaN or infinity."""
    array = require_array(name, values, caller)
    if array.size == 0:
        raise ValueError(
            f"{caller} needs at least one row. Received {name} of shape {array.shape}."
        )
    if np.issubdtype(array.dtype, np.floating):
        bad = ~np.isfinite(array)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{caller} needs finite numbers. Received {name} of shape {array.shape} with "
                f"{int(bad.sum())} values that are NaN or infinite, the first at index {first}. "
                "Remove or impute those rows first, for example with numpy.nan_to_num."
            )
    return array


def require_inputs(graph: Any, x: Any, caller: str) -> Any:
    """Returns `x` as finite arrays, or raises unless it is rows of what the model takes."""
    x = keras.tree.map_structure(lambda a: require_finite("x", a, caller), x)
    structure, model = graph.input_structure, graph.model.name
    names = set(structure) if isinstance(structure, dict) else {t.name for t in graph.inputs}
    if isinstance(x, dict) and not names <= set(x):
        raise ValueError(
            f'{caller} needs x to hold the inputs {sorted(names)} of model "{model}". '
            f"Received {sorted(x)}."
        )
    arrays, wanted = graph.by_input(x), [tuple(t.shape) for t in graph.inputs]
    fits = len(arrays) == len(wanted) and all(
        array.ndim == len(shape)
        and all(n in (None, m) for n, m in zip(shape[1:], array.shape[1:], strict=True))
        for array, shape in zip(arrays, wanted, strict=True)
    )
    if not fits:
        raise ValueError(
            f'{caller} needs x, without labels, to fit the inputs of model "{model}", of shapes '
            f"{wanted}. Received arrays of shapes {[a.shape for a in arrays]}."
        )
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            f"{caller} needs as many rows in each input. Received {[len(a) for a in arrays]}."
        )
    return x
