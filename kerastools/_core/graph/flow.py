"""Where the layers of a model that hold weights stand: what feeds them, and what follows them."""

from dataclasses import dataclass, field
from typing import Any

import keras

from kerastools._core.graph.activations import activation_name, is_activation, own_activation
from kerastools._core.graph.calls import Call, Graph, read_graph, sublayers
from kerastools._core.graph.fans import is_kernel
from kerastools._core.graph.kinds import is_kind, kind_of, unwrapped

# The layers that a tensor comes from, back to the nearest kernels: (path, whether it has one).
_State = set[tuple[str, bool]]
_INPUT = ("", False)


@dataclass(frozen=True)
class Flow:
    """Where layers with kernels stand; layers are named by their path in the model.

    Attributes:
        first: Those that read the model's inputs, other layers without kernels between.
        last: Those whose outputs the model returns, other layers without kernels between.
        normalised: Those whose outputs are normalised before the next kernel.
        after_last: Layers without kernels between the last kernels and the outputs.
    """

    first: set[str] = field(default_factory=set)
    last: set[str] = field(default_factory=set)
    normalised: set[str] = field(default_factory=set)
    after_last: set[str] = field(default_factory=set)


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


def flow_of(model: Any, caller: str) -> Flow:
    """Returns where the kernels of `model`, nested models included, stand."""
    flow = Flow()
    graph = read_graph(model, caller).entered()
    states: dict[int, _State] = {id(t): {_INPUT} for t in graph.inputs}
    for call in graph.calls:
        layer = call.operation
        entering: _State = set().union(*(states[id(t)] for t in call.data))
        state = entering | {(call.path, False)}
        if isinstance(layer, keras.Layer):
            if any(is_kind(part, "normalization") for part in sublayers(layer)):
                flow.normalised.update(name for name, has_kernel in entering if has_kernel)
            if any(is_kernel(v) for v in layer.weights):
                if _INPUT in entering:
                    flow.first.add(call.path)
                state = {(call.path, True)}
        states.update({id(t): state for t in call.outputs})
    for path, has_kernel in set().union(*(states[id(t)] for t in graph.outputs)) - {_INPUT}:
        (flow.last if has_kernel else flow.after_last).add(path)
    return flow


@dataclass(eq=False)
class Link:
    """A layer with a kernel in a chain of kernels between which nothing sets the signal's scale.

    Attributes:
        before: The layers, by id, whose signal it takes: through activations, dropout, pooling,
            reshaping and concatenation, but through no normalization, sum or product.
        joins: Whether its signal meets another in a sum or product, as the last kernel of a
            residual branch and a gate do, or the model returns it.
        normalised: Whether its signal is normalized before the next kernel.
    """

    before: set[int] = field(default_factory=set)
    joins: bool = False
    normalised: bool = False


def links_of(model: Any, caller: str) -> dict[int, Link]:
    """Returns the links of every chain of kernels by the id of the layer, in order.

    What is inside a composite or recurrent layer, and what a layer of an unknown class takes, is
    in no chain.
    """
    graph = read_graph(model, caller).entered()
    links: dict[int, Link] = {}
    reaching: dict[int, set[int]] = {id(t): set() for t in graph.inputs}
    for call in graph.calls:
        entering = set().union(*(reaching[id(t)] for t in call.data))
        layer, passed = unwrapped(call.operation), set()
        if is_kind(layer, "kernel"):
            links.setdefault(id(layer), Link()).before.update(entering)
            passed = {id(layer)}
        elif is_kind(layer, "concatenate") or (len(call.data) == 1 and _keeps_scale(layer)):
            passed = entering
        elif is_kind(layer, "normalization"):
            for key in entering:
                links[key].normalised = True
        else:
            for key in entering:
                links[key].joins = True
        reaching.update({id(t): passed for t in call.outputs})
    for key in set().union(*(reaching[id(t)] for t in graph.outputs)):
        links[key].joins = True
    return links


def _keeps_scale(operation: Any) -> bool:
    """Whether a layer or operation passes a signal on whose scale is still that of its input."""
    if isinstance(operation, keras.Layer):
        return kind_of(operation).group in _SIGNAL_PASSES
    return True


_SIGNAL_PASSES = (
    *("dropout", "noise", "identity", "penalty", "masking", "activation"),
    *("reshape", "resize", "pooling"),
)


def walk(model: Any, caller: str) -> list[PlacedLayer]:
    """Returns every layer of `model` that holds weights, in the order of computation, each once.

    Nested models, wrappers and composite layers are entered. A shared layer stands where it is
    first called, with the first activation that any of its calls meets.

    Raises:
        ValueError: If `model` is not a built functional or Sequential model.
    """
    found: dict[int, PlacedLayer] = {}
    graph = read_graph(model, caller).entered()
    for call in graph.calls:
        if isinstance(call.operation, keras.Layer):
            _place(call, graph, found)
    return list(found.values())


def _place(call: Call, graph: Graph, found: dict[int, PlacedLayer]) -> None:
    """Adds the layer that is called and the layers inside it."""
    operation = call.operation
    wrapped = unwrapped(operation)
    for layer in sublayers(operation):
        inner = {id(v) for child in sublayers(layer)[1:] for v in child.weights}
        weights = tuple(v for v in layer.weights if id(v) not in inner)
        if not weights:
            continue
        activation = own_activation(layer)
        if activation is None and layer is wrapped:
            activation = next(
                (a for t in call.outputs if (a := _following(t, graph)) is not None), None
            )
        known = found.get(id(layer))
        if known is None or known.activation is None:
            path = call.path if layer is operation else f"{call.path}/{layer.name}"
            path = known.path if known else path
            found[id(layer)] = PlacedLayer(path, layer, activation, weights)


def _following(tensor: Any, graph: Graph) -> Any:
    """Returns the first activation that `tensor` meets before the next kernel, or `None`."""
    for call in graph.consumers(tensor):
        operation = call.operation
        if is_activation(operation) and activation_name(operation) != "linear":
            return operation
        if _is_transparent(operation):
            for output in call.outputs:
                if (activation := _following(output, graph)) is not None:
                    return activation
    return None


def _is_transparent(operation: Any) -> bool:
    """Whether the signal behind `operation` is still that of the kernel before it.

    Normalisation, dropout, pooling, reshaping, sums and the like: whatever has no kernel.
    """
    if not isinstance(operation, keras.Layer):
        return True
    return not any(is_kernel(v) for v in operation.trainable_weights)
