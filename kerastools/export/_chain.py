"""A model with what comes before and after it when it serves."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import keras

from kerastools._core.checks import require_built
from kerastools._core.graph.calls import Graph, has_graph
from kerastools.export._endpoint import endpoint_of


class _Chain(keras.Model):
    """Calls models one after the other in Python, where they make no graph of layers."""

    def __init__(self, links: list[Any], model: Any) -> None:
        super().__init__(name=f"{model.name}_served")
        self.links = links
        self.entry = links[0]
        self.names = _output_names(model)
        self.built = True

    def call(self, *inputs: Any) -> Any:
        first, *rest = self.links
        outputs = first(*inputs)
        for link in rest:
            outputs = link(outputs)
        return _named(outputs, self.names)


def chained(
    model: Any, preprocessing: Any, postprocessing: Callable[[Any], Any] | None, caller: str
) -> Any:
    """Returns a model that runs all three in turn; `model` itself if there is nothing else.

    Where it can, this is a functional model, which can be folded.
    """
    if preprocessing is not None:
        require_built(preprocessing, f"{caller}(preprocessing=...)")
        _check_fit(model, preprocessing, caller)
    links = [link for link in (preprocessing, model, postprocessing) if link is not None]
    if len(links) == 1:
        return model
    if has_graph(links[0]) and has_graph(model):
        # Code of the user's may take no symbolic tensors.
        with suppress(Exception):
            return _functional(links, model)
    return _Chain(links, model)


def _functional(links: list[Any], model: Any) -> Any:
    entry = Graph(links[0])
    taken = {layer.name for layer in entry.input_layers}
    layers = iter(entry.input_layers)
    inputs = keras.tree.map_structure(lambda t: _like(t, next(layers)), entry.input_structure)
    outputs: Any = inputs
    for link in links:
        outputs = _renamed(link, taken)(outputs)
    outputs = _named(outputs, _output_names(model))
    return keras.Model(inputs, outputs, name=f"{model.name}_served")


def _output_names(model: Any) -> list[str]:
    """Returns the names of a model's outputs if it has a graph to know them from."""
    if not has_graph(model):
        return []
    return list(endpoint_of(model, None, "").named(Graph(model).outputs))


def _named(outputs: Any, names: list[str]) -> Any:
    """Returns `outputs` by the model's names if they are as many and have none of their own."""
    flat = keras.tree.flatten(outputs)
    named = isinstance(outputs, dict) or len(flat) != len(names)
    return outputs if named else dict(zip(names, flat, strict=True))


def _renamed(link: Any, taken: set[str]) -> Any:
    """Returns `link`, or a view of it by another name: a model's layers have each one of its own.

    Two unnamed models of different processes are both "sequential".
    """
    if not has_graph(link):
        return link
    name = link.name
    while name in taken:
        name = f"{name}_"
    taken.add(name)
    if name == link.name:
        return link
    graph = Graph(link)
    return keras.Model(graph.input_structure, graph.output_structure, name=name)


def _like(tensor: Any, layer: Any) -> Any:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=layer.name)


def _check_fit(model: Any, preprocessing: Any, caller: str) -> None:
    if not (has_graph(model) and has_graph(preprocessing)):
        return
    made, taken = Graph(preprocessing).outputs, Graph(model).inputs
    if [len(t.shape) for t in made] != [len(t.shape) for t in taken]:
        raise ValueError(
            f"{caller} needs preprocessing to be a model whose outputs are the inputs of model "
            f'"{model.name}": {[tuple(t.shape) for t in taken]}. Received "{preprocessing.name}" '
            f"with outputs of shape {[tuple(t.shape) for t in made]}."
        )
