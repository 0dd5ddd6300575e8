"""Cuts of a model: tensors through which everything goes."""

from typing import Any

import keras

from kerastools._core.graph.calls import Call, Graph


def cuts(graph: Graph) -> list[Call]:
    """Returns the calls whose output is all that later calls depend on, the lowest first."""
    uses = {id(t): len(graph.consumers(t)) + graph.is_output(t) for t in graph.inputs}
    found = []
    for call in graph.calls:
        for tensor in call.inputs:
            uses[id(tensor)] -= 1
        for tensor in call.outputs:
            uses[id(tensor)] = len(graph.consumers(tensor)) + graph.is_output(tensor)
        uses = {key: left for key, left in uses.items() if left}
        if len(call.outputs) == 1 and list(uses) == [id(call.outputs[0])]:
            found.append(call)
    return found


def split(graph: Graph, call: Call) -> tuple[keras.Model, keras.Model]:
    """Returns models of the layers below and above the output of `call`, which are shared."""
    (tensor,) = call.outputs
    name = graph.model.name
    prefix = keras.Model(graph.input_structure, tensor, name=f"{name}_prefix")
    head = keras.Model(tensor, graph.output_structure, name=f"{name}_head")
    return prefix, head


def find_call(graph: Graph, upto: Any, among: list[Call], caller: str) -> Call:
    """Returns the one call in `among` of layer `upto`, or of the layer of this name."""
    name = upto.name if isinstance(upto, keras.Layer) else upto
    found = [call for call in among if call.operation.name == name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(call.operation.name for call in among)
    anywhere = any(call.operation.name == name for call in graph.calls)
    reason = (
        "past which other tensors go, or which is called more than once"
        if anywhere
        else "which is not among its outermost layers"
    )
    raise ValueError(
        f'{caller} needs a layer of model "{graph.model.name}" through which everything goes. '
        f"Received {name!r}, {reason}. It can be {names or 'none'}."
    )
