"""Where tensors that go into and out of nested models are made and used."""

from typing import Any

import keras

from kerastools._core.graph.calls import Call, Graph
from kerastools.folding._algebra.affine import CannotFold

# A tensor, and the graph in which it stands.
Place = tuple[Graph, Any]


class Nesting:
    """Follows values through the inputs and outputs of nested models.

    What is passed to a nested model and the input inside it are one value under two symbolic
    tensors, and so are an output inside it and what the call returns. That holds where the model
    is called once and changes neither dtype nor shape; elsewhere `CannotFold` says so.

    Args:
        graphs: Those of a model and of all that are nested in it, by the id of the model.
    """

    def __init__(self, graphs: dict[int, Graph]) -> None:
        self._graphs = graphs
        self._calls: dict[int, list[tuple[Graph, Call]]] = {}
        for graph in graphs.values():
            for call in graph.calls:
                if id(call.operation) in graphs:
                    self._calls.setdefault(id(call.operation), []).append((graph, call))

    def source(self, graph: Graph, tensor: Any) -> Place:
        """Returns the place where `tensor` is made by a layer, or is an input of the outermost."""
        call = graph.producer(tensor)
        if call is None:
            if id(graph.model) not in self._calls:
                return graph, tensor
            outer, call = self._only_call(graph)
            return self.source(outer, _other(tensor, _entrances(call, graph)))
        inner = self._graphs.get(id(call.operation))
        if inner is None:
            return graph, tensor
        self._only_call(inner)
        return self.source(inner, _other(tensor, _exits(call, inner)))

    def uses(self, graph: Graph, tensor: Any) -> list[tuple[Graph, Call | None]]:
        """Returns each call of a layer that takes `tensor`; `None` where the outermost returns it.

        A call that takes it twice is listed twice.
        """
        found: list[tuple[Graph, Call | None]] = []
        nested: dict[int, Call] = {}
        for call in graph.consumers(tensor):
            if id(call.operation) in self._graphs:
                nested[id(call)] = call
            else:
                found.append((graph, call))
        for call in nested.values():
            inner = self._graphs[id(call.operation)]
            self._only_call(inner)
            for outside, inside in _entrances(call, inner):
                if outside is tensor:
                    found += self.uses(inner, inside)
        if graph.is_output(tensor):
            if id(graph.model) not in self._calls:
                return [*found, (graph, None)]
            outer, call = self._only_call(graph)
            for outside, inside in _exits(call, graph):
                if inside is tensor:
                    found += self.uses(outer, outside)
        return found

    def _only_call(self, graph: Graph) -> tuple[Graph, Call]:
        calls = self._calls[id(graph.model)]
        if len(calls) > 1:
            raise CannotFold(f"the nested model {graph.model.name} is called {len(calls)} times")
        return calls[0]


def _other(tensor: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """Returns what is paired with `tensor`."""
    return next(b if a is tensor else a for a, b in pairs if a is tensor or b is tensor)


def _entrances(call: Call, inner: Graph) -> list[tuple[Any, Any]]:
    """Returns what is passed to a nested model, each with the input that takes it."""
    name, passed = inner.model.name, call.first_argument()
    outside = keras.tree.flatten(passed)
    if len(outside) > 1 or len(inner.inputs) > 1:
        try:
            keras.tree.assert_same_structure(passed, inner.input_structure)
        except (ValueError, TypeError) as error:
            raise CannotFold(
                f"{name} is called on another structure than it was made of"
            ) from error
    return _unchanged(name, outside, inner.inputs)


def _exits(call: Call, inner: Graph) -> list[tuple[Any, Any]]:
    """Returns what the call of a nested model returns, each with the tensor inside."""
    return _unchanged(inner.model.name, list(call.outputs), inner.outputs)


def _unchanged(name: str, outside: list[Any], inside: list[Any]) -> list[tuple[Any, Any]]:
    pairs = list(zip(outside, inside, strict=True))
    for a, b in pairs:
        if a.dtype != b.dtype or len(a.shape) != len(b.shape):
            raise CannotFold(f"{name} changes the dtype or shape of what goes into it")
    return pairs
