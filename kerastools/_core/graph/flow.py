"""Which kernels of a model read its inputs, make its outputs, or are normalised."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from kerastools._core.graph.calls import Graph, has_graph, read_graph, sublayers
from kerastools._core.graph.fans import is_kernel
from kerastools._core.graph.kinds import is_kind

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


def flow_of(model: Any, caller: str) -> Flow:
    """Returns where the kernels of `model`, nested models included, stand."""
    flow = Flow()
    graph = read_graph(model, caller)
    outputs = _run(graph, [{_INPUT} for _ in graph.inputs], "", flow)
    for path, has_kernel in set().union(*outputs) - {_INPUT}:
        (flow.last if has_kernel else flow.after_last).add(path)
    return flow


def _run(graph: Graph, inputs: Sequence[_State], prefix: str, flow: Flow) -> list[_State]:
    """Returns the state of each output of `graph`."""
    states = {id(t): state for t, state in zip(graph.inputs, inputs, strict=True)}
    for call in graph.calls:
        layer, path = call.operation, prefix + call.operation.name
        entering: _State = set().union(*(states[id(t)] for t in call.inputs))
        state = entering | {(path, False)}
        outputs = [state] * len(call.outputs)
        if has_graph(layer):
            outputs = _run(Graph(layer), [states[id(t)] for t in call.inputs], f"{path}/", flow)
        elif isinstance(layer, keras.Layer):
            if any(is_kind(part, "normalization") for part in sublayers(layer)):
                flow.normalised.update(name for name, has_kernel in entering if has_kernel)
            if any(is_kernel(v) for v in layer.weights):
                if _INPUT in entering:
                    flow.first.add(path)
                outputs = [{(path, True)}] * len(call.outputs)
        states.update({id(t): state for t, state in zip(call.outputs, outputs, strict=False)})
    return [states[id(t)] for t in graph.outputs]
