"""A model as it is called from outside: its arguments, and the names of what goes in and out."""

import dataclasses
import inspect
import itertools
import re
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerastools._core.checks import require_built
from kerastools._core.graph.calls import Graph, has_graph


@dataclass(frozen=True)
class Endpoint:
    """A model, and how it is called.

    Attributes:
        model: A built model.
        graph: Its graph, or `None` for one whose `call()` is Python code.
        arguments: What it takes, one structure of tensors with a shape and a dtype each.
        inputs: A name for each tensor in `arguments`, spelled as an identifier.
        names: Names for what it returns, if not those of its own.
    """

    model: Any
    graph: Graph | None
    arguments: list[Any]
    inputs: list[str]
    names: list[str] | None = None

    @property
    def tensors(self) -> list[Any]:
        """What it takes, flattened."""
        return keras.tree.flatten(self.arguments)

    def named(self, outputs: Any) -> dict[str, Any]:
        """Returns what the model returned by name: the dictionary's keys or the layers' names."""
        flat = keras.tree.flatten(outputs)
        if self.names is not None:
            names = self.names
        elif self.graph is not None:
            names = _names(self.graph.output_structure, self.graph.output_layers)
        else:
            names = _keys(outputs) or [f"output_{i}" for i in range(len(flat))]
        return dict(zip(_unique(names), flat, strict=True))


def endpoint_of(model: Any, sample: Any, caller: str) -> Endpoint:
    """Returns how `model` is called, without a graph as it was called first.

    Args:
        model: A built model.
        sample: Inputs, if there are any: the dtypes of a model without a graph.
        caller: Named in messages of errors.
    """
    require_built(model, caller)
    entry = getattr(model, "entry", None)  # Of a chain of models, the first.
    if entry is not None:
        return dataclasses.replace(endpoint_of(entry, sample, caller), model=model, graph=None)
    if has_graph(model):
        graph = Graph(model)
        inputs = _names(graph.input_structure, graph.input_layers)
        return Endpoint(model, graph, [graph.input_structure], _identifiers(inputs))
    arguments = _recorded_arguments(model, caller)
    if sample is not None and len(arguments) == 1:
        types = [_dtype_of(x) for x in keras.tree.flatten(sample)]
        flat = zip(keras.tree.flatten(arguments), types, strict=True)
        arguments = keras.tree.pack_sequence_as(
            arguments, [keras.KerasTensor(t.shape, dtype) for t, dtype in flat]
        )
    return Endpoint(model, None, arguments, _identifiers(_argument_names(model, arguments)))


def _recorded_arguments(model: Any, caller: str) -> list[Any]:
    """Returns what a model took when it was built, with an open batch size, as Keras exports it."""
    try:
        if model.inputs:
            return [model.input]
    except (AttributeError, ValueError):
        pass
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict", config)
    if not shapes or any(shape is None for shape in shapes.values()):
        raise ValueError(
            f'{caller} needs to know what model "{model.name}" of the subclass '
            f"{type(model).__name__} takes. Call it on some data first, as model(x)."
        )
    return [_tensors_of(shape, model.input_dtype) for shape in shapes.values()]


def _tensors_of(shapes: Any, dtype: str) -> Any:
    """Returns a tensor for each shape in a structure, in plain dictionaries, lists and tuples."""
    if isinstance(shapes, dict):
        return {key: _tensors_of(shape, dtype) for key, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor((None, *shapes[1:]), dtype)
    parts = [_tensors_of(shape, dtype) for shape in shapes]
    return parts if isinstance(shapes, list) else tuple(parts)


def _argument_names(model: Any, arguments: list[Any]) -> list[str]:
    parameters = list(inspect.signature(model.call).parameters)
    names = []
    for parameter, structure in zip(parameters, arguments, strict=False):
        count = len(keras.tree.flatten(structure))
        numbered = [f"{parameter}_{i}" if i else parameter for i in range(count)]
        names += _keys(structure) or numbered
    return names


def _dtype_of(x: Any) -> str:
    dtype = keras.backend.standardize_dtype(np.asarray(x).dtype)
    return keras.config.floatx() if dtype == "float64" else dtype


def _names(structure: Any, layers: list[Any]) -> list[str]:
    """Returns a name for each tensor: its key in a flat dictionary, else that of its layer."""
    return _keys(structure) or [layer.name for layer in layers]


def _keys(structure: Any) -> list[str]:
    """Returns the keys of a flat dictionary, and nothing of another structure."""
    if isinstance(structure, dict) and not any(map(keras.tree.is_nested, structure.values())):
        return [str(key) for (key,), _ in keras.tree.flatten_with_path(structure)]
    return []


def _identifiers(names: list[str]) -> list[str]:
    """Returns `names` as TensorFlow takes them: the arguments of a signature go by keyword."""
    plain = [re.sub(r"\W", "_", name, flags=re.A) for name in names]
    # No tensor's name may begin with an underscore.
    return _unique([re.sub(r"^(?=[\d_])", "x", name) for name in plain])


def _unique(names: list[str]) -> list[str]:
    """Returns `names` with `_1`, `_2` and so on added where a name comes again."""
    result: list[str] = []
    for name in names:
        free = (f"{name}_{i}" if i else name for i in itertools.count())
        result.append(next(candidate for candidate in free if candidate not in result))
    return result
