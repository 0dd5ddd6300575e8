"""Names of a model's inputs and outputs."""

import itertools
import re
from typing import Any

import keras

from kerastools._core.graph.calls import Graph


def input_names(graph: Graph) -> list[str]:
    """Returns what the inputs are called, spelled as identifiers."""
    names = _names(graph.input_structure, graph.input_layers)
    # TensorFlow takes the arguments of a signature by keyword, and no tensor's name may begin
    # with an underscore.
    return _unique([re.sub(r"\W", "_", re.sub(r"^(?=[\d_])", "x", n), flags=re.A) for n in names])


def output_names(graph: Graph) -> list[str]:
    """Returns what the outputs are called: keys of the dictionary, or the layers' names."""
    return _unique(_names(graph.output_structure, graph.output_layers))


def _names(structure: Any, layers: list[Any]) -> list[str]:
    """Returns a name for each tensor: its key in a flat dictionary, else that of its layer."""
    if isinstance(structure, dict) and not any(map(keras.tree.is_nested, structure.values())):
        return [str(key) for (key,), _ in keras.tree.flatten_with_path(structure)]
    return [layer.name for layer in layers]


def _unique(names: list[str]) -> list[str]:
    """Returns `names` with `_1`, `_2` and so on added where a name comes again."""
    result: list[str] = []
    for name in names:
        free = (f"{name}_{i}" if i else name for i in itertools.count())
        result.append(next(candidate for candidate in free if candidate not in result))
    return result
