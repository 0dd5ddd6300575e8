"""Making the folded model."""

from typing import Any

import keras

from kerastools._core.graph.calls import Call, Graph
from kerastools._core.graph.rebuild import copy_operation, copy_state, layer_from_config
from kerastools.folding._plan import Plan


def build(plan: Plan, caller: str) -> Any:
    """Returns the new model that `plan` describes; nothing of the old one is changed."""
    copies: dict[int, Any] = {}
    originals: list[Any] = []
    folded = _build(plan, plan.graphs[id(plan.model)], copies, originals, caller)
    # Setting the flag of a model sets those of its layers: parents first.
    for model in reversed([o for o in originals if id(o) in plan.graphs]):
        copies[id(model)].trainable = model.trainable
    for original in originals:
        if id(original) in plan.weights:
            plan.weights[id(original)].assign_to(copies[id(original)])
        elif isinstance(original, keras.Layer) and id(original) not in plan.graphs:
            copy_state(original, copies[id(original)], caller)
    return folded


def _build(
    plan: Plan, graph: Graph, copies: dict[int, Any], originals: list[Any], caller: str
) -> Any:
    """Returns the copy of a model, which appends itself to `originals` after its parts."""

    def copy(operation: Any) -> Any:
        if id(operation) not in copies:
            if id(operation) in plan.graphs:
                return _build(plan, plan.graphs[id(operation)], copies, originals, caller)
            if id(operation) in plan.weights:
                changes = plan.weights[id(operation)].config_changes()
                copies[id(operation)] = layer_from_config(operation, changes, caller)
            else:
                copies[id(operation)] = copy_operation(operation, caller)
            originals.append(operation)
        return copies[id(operation)]

    def stand_in(call: Call) -> Any:
        """Returns what a call that goes leaves: nothing, a shift, or the name of an output."""
        common = {"name": call.operation.name, "dtype": call.operation.dtype_policy.name}
        if id(call) in plan.shifts:
            return keras.layers.Rescaling(1.0, plan.shifts[id(call)], **common)
        return keras.layers.Identity(**common) if graph.is_output(call.outputs[0]) else None

    def goes(call: Call) -> bool:
        return id(call) in plan.removed or id(call) in plan.shifts

    model = graph.model
    inputs = [copy(layer) for layer in graph.input_layers]
    if isinstance(model, keras.Sequential):
        parts = [stand_in(call) if goes(call) else copy(call.operation) for call in graph.calls]
        new = keras.Sequential([*inputs, *(p for p in parts if p is not None)], name=model.name)
    else:
        tensors = {id(t): layer.output for t, layer in zip(graph.inputs, inputs, strict=True)}
        for call in graph.calls:
            if goes(call):
                layer = stand_in(call)
                passed = tensors[id(call.inputs[0])]
                outputs = passed if layer is None else layer(passed)
            else:
                args, kwargs = call.filled_in(tensors)
                outputs = copy(call.operation)(*args, **kwargs)
            for old, tensor in zip(call.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(old)] = tensor
        new = keras.Model(
            keras.tree.map_structure(lambda t: tensors[id(t)], graph.input_structure),
            keras.tree.map_structure(lambda t: tensors[id(t)], graph.output_structure),
            name=model.name,
        )
    copies[id(model)] = new
    originals.append(model)
    return new
