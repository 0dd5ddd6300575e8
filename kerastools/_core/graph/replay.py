"""Running a model's graph call by call, nested models included."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from kerastools._core.graph.calls import Graph, has_graph

# Takes the path, the layer or operation, and its arguments; returns its outputs.
Apply = Callable[[str, Any, tuple[Any, ...], dict[str, Any]], Any]


def run_graph(graph: Graph, x: Any, apply: Apply, prefix: str = "") -> list[Any]:
    """Computes the outputs of `graph` for `x`, each call made by `apply`; nested models entered."""
    tensors = {id(t): v for t, v in zip(graph.inputs, _as_inputs(graph, x), strict=True)}
    for call in graph.calls:
        args, kwargs = call.filled_in(tensors)
        path = prefix + call.operation.name
        if has_graph(call.operation):
            outputs = run_graph(Graph(call.operation), args[0], apply, f"{path}/")
        else:
            outputs = tree.flatten(apply(path, call.operation, args, kwargs))
        tensors.update(zip(map(id, call.outputs), outputs, strict=False))
    return [tensors[id(t)] for t in graph.outputs]


def call_in_training(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a layer as in training, or an operation as it is."""
    if isinstance(operation, keras.Layer) and takes_training(operation):
        kwargs = {**kwargs, "training": True}
    return operation(*args, **kwargs)


def takes_training(layer: Any) -> bool:
    """Whether the layer is told if it is called in training."""
    return "training" in inspect.signature(layer.call).parameters


def by_input(graph: Graph, x: Any) -> list[Any]:
    """Returns `x`, an array or a structure of arrays, in the order of the graph's inputs.

    Raises:
        KeyError: If `x` is a dictionary that lacks one.
    """
    if isinstance(x, dict):
        structure = graph.input_structure
        if isinstance(structure, dict):
            return tree.flatten({key: x[key] for key in structure})
        return [x[t.name] for t in graph.inputs]
    return tree.flatten(x)


def _as_inputs(graph: Graph, x: Any) -> list[Any]:
    return [
        ops.convert_to_tensor(value, dtype=symbol.dtype)
        for value, symbol in zip(by_input(graph, x), graph.inputs, strict=True)
    ]
