"""What comes before and after a model when it serves."""

from collections.abc import Callable
from typing import Any

import keras

from kerastools._core.graph.calls import Graph, read_graph
from kerastools.export._signature import output_names


def with_stages(
    graph: Graph,
    preprocessing: keras.Model | None,
    postprocessing: Callable[[Any], Any] | None,
    caller: str,
) -> Graph:
    """Returns the graph of a model that runs all three in turn; `graph` itself if there is one."""
    if preprocessing is None and postprocessing is None:
        return graph
    entry = graph if preprocessing is None else _entry(graph, preprocessing, caller)
    layers = iter(entry.input_layers)
    inputs = keras.tree.map_structure(lambda t: _like(t, next(layers)), entry.input_structure)
    ready = inputs if preprocessing is None else preprocessing(inputs)
    outputs = graph.model(ready)
    if postprocessing is not None:
        outputs = postprocessing(outputs)
    flat, names = keras.tree.flatten(outputs), output_names(graph)
    if not isinstance(outputs, dict) and len(flat) == len(names):
        outputs = dict(zip(names, flat, strict=True))
    return read_graph(keras.Model(inputs, outputs, name=f"{graph.model.name}_served"), caller)


def _like(tensor: Any, layer: Any) -> Any:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=layer.name)


def _entry(graph: Graph, preprocessing: Any, caller: str) -> Graph:
    entry = read_graph(preprocessing, f"{caller}(preprocessing=...)")
    made = [(t.shape, t.dtype) for t in entry.outputs]
    fits = len(made) == len(graph.inputs) and all(
        len(shape) == len(t.shape) for (shape, _), t in zip(made, graph.inputs, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{caller} needs preprocessing to be a model whose outputs are the inputs of model "
            f'"{graph.model.name}": {[tuple(t.shape) for t in graph.inputs]}. Received '
            f'"{preprocessing.name}" with outputs of shape {[tuple(s) for s, _ in made]}.'
        )
    return entry
