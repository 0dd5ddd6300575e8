"""Walking the layers of a model that hold weights, with the activation that follows each."""

from dataclasses import dataclass
from typing import Any

import keras

from kerastools._core.graph.activations import activation_name, is_activation, own_activation
from kerastools._core.graph.calls import Call, Graph, has_graph, read_graph, sublayers
from kerastools._core.graph.fans import is_kernel
from kerastools._core.graph.kinds import unwrapped


@dataclass(frozen=True, eq=False)
class PlacedLayer:
    """A layer with weights of its own, and where it stands in the model.

    Attributes:
        path: Its name, after the names of the models and layers that it is inside of.
        layer: The layer.
        activation: The activation that its output meets: its own, or else the first one on the way
            to the next layer with a kernel; `None` where there is none.
        weights: The variables that it holds itself, not those of layers inside it.
    """

    path: str
    layer: Any
    activation: Any
    weights: tuple[Any, ...]


def walk(model: Any, caller: str) -> list[PlacedLayer]:
    """Returns every layer of `model` that holds weights, in the order of computation, each once.

    Nested models, wrappers and composite layers are entered. A shared layer stands where it is
    first called, with the first activation that any of its calls meets.

    Raises:
        ValueError: If `model` is not a built functional or Sequential model.
    """
    found: dict[int, PlacedLayer] = {}
    _visit(_Scope(read_graph(model, caller)), "", found)
    return list(found.values())


class _Scope:
    """A graph, and the call of the graph around it that entered it."""

    def __init__(self, graph: Graph, outer: "_Scope | None" = None, call: Call | None = None):
        self.graph = graph
        self.outer = outer
        self.call = call

    def inside(self, call: Call) -> "_Scope":
        return _Scope(Graph(call.operation), self, call)


def _visit(scope: _Scope, prefix: str, found: dict[int, PlacedLayer]) -> None:
    for call in scope.graph.calls:
        operation = call.operation
        if has_graph(operation):
            _visit(scope.inside(call), f"{prefix}{operation.name}/", found)
        elif isinstance(operation, keras.Layer):
            _place(operation, call, scope, prefix, found)


def _place(
    operation: Any, call: Call, scope: _Scope, prefix: str, found: dict[int, PlacedLayer]
) -> None:
    """Adds `operation` and the layers inside it."""
    wrapped = unwrapped(operation)
    for layer in sublayers(operation):
        inner = {id(v) for child in sublayers(layer)[1:] for v in child.weights}
        weights = tuple(v for v in layer.weights if id(v) not in inner)
        if not weights:
            continue
        activation = own_activation(layer)
        if activation is None and layer is wrapped:
            activation = next(
                (a for t in call.outputs if (a := _following(t, scope)) is not None), None
            )
        known = found.get(id(layer))
        if known is None or known.activation is None:
            name = operation.name if layer is operation else f"{operation.name}/{layer.name}"
            path = known.path if known else prefix + name
            found[id(layer)] = PlacedLayer(path, layer, activation, weights)


def _following(tensor: Any, scope: _Scope) -> Any:
    """Returns the first activation that `tensor` meets before the next kernel, or `None`."""
    for call in scope.graph.consumers(tensor):
        operation = call.operation
        if is_activation(operation) and activation_name(operation) != "linear":
            return operation
        if has_graph(operation):
            inner = scope.inside(call)
            pairs = zip(call.inputs, inner.graph.inputs, strict=False)
            onward = [(entry, inner) for argument, entry in pairs if argument is tensor]
        elif _is_transparent(operation):
            onward = [(output, scope) for output in call.outputs]
        else:
            onward = []
        for next_tensor, next_scope in onward:
            activation = _following(next_tensor, next_scope)
            if activation is not None:
                return activation
    if scope.outer is not None and scope.call is not None:
        pairs = zip(scope.graph.outputs, scope.call.outputs, strict=False)
        for inner_output, outer_output in pairs:
            if inner_output is tensor:
                return _following(outer_output, scope.outer)
    return None


def _is_transparent(operation: Any) -> bool:
    """Whether the signal behind `operation` is still that of the kernel before it.

    Normalisation, dropout, pooling, reshaping, sums and the like: whatever has no kernel.
    """
    if not isinstance(operation, keras.Layer):
        return True
    return not any(is_kernel(v) for v in operation.trainable_weights)
