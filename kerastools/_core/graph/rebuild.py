"""Making a model again with some of its layers changed and others between them."""

from collections.abc import Callable
from typing import Any

import keras

from kerastools._core.graph.calls import (
    Call,
    Graph,
    copy_operation,
    copy_state,
    has_graph,
    read_graph,
    sublayers,
)

# Takes the path and the original; returns the changed layer and whether it takes over the
# original's weights, or None where a copy will do.
Change = Callable[[str, Any], tuple[Any, bool] | None]
# Takes the path, the original call, the new layer and its arguments; returns what comes out.
Connect = Callable[[str, Call, Any, tuple[Any, ...], dict[str, Any]], Any]


def rebuild(model: Any, caller: str, change: Change, connect: Connect | None = None) -> Any:
    """Returns a model like `model`, nested models included, with layers and weights of its own.

    Args:
        model: A built functional or Sequential model; it is left alone.
        caller: Named in messages of errors.
        change: Says for each layer what takes its place. Inside a layer, a wrapper say, it is not
            asked.
        connect: Calls the new layers and nested models; it may put others before or behind, or
            leave one out.

    Returns:
        A functional model, not compiled.
    """
    copies: dict[int, Any] = {}
    originals: list[tuple[Any, bool]] = []
    connect = connect or (lambda path, call, layer, args, kwargs: layer(*args, **kwargs))

    def copy(path: str, operation: Any) -> Any:
        if id(operation) not in copies:
            changed = change(path, operation) if isinstance(operation, keras.Layer) else None
            new, keeps_weights = changed or (copy_operation(operation, caller), True)
            copies[id(operation)] = new
            originals.append((operation, keeps_weights))
        return copies[id(operation)]

    def build(graph: Graph, prefix: str) -> Any:
        key = id(graph.model)
        if key in copies:
            return copies[key]
        # The class and sizes of an input are in its configuration; it is never changed.
        inputs = [copy_operation(layer, caller) for layer in graph.input_layers]
        tensors = {id(t): layer.output for t, layer in zip(graph.inputs, inputs, strict=True)}
        for call in graph.calls:
            path = prefix + call.operation.name
            args, kwargs = call.filled_in(tensors)
            if has_graph(call.operation):
                layer = build(Graph(call.operation), f"{path}/")
            else:
                layer = copy(path, call.operation)
            outputs = connect(path, call, layer, args, kwargs)
            for old, tensor in zip(call.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(old)] = tensor
        copies[key] = keras.Model(
            keras.tree.map_structure(lambda t: tensors[id(t)], graph.input_structure),
            keras.tree.map_structure(lambda t: tensors[id(t)], graph.output_structure),
            name=graph.model.name,
        )
        return copies[key]

    rebuilt = build(read_graph(model, caller), "")
    # Setting the flag of a model sets those of its layers: parents first.
    for nested in (layer for layer in sublayers(model) if has_graph(layer)):
        if id(nested) in copies:
            copies[id(nested)].trainable = nested.trainable
    for original, keeps_weights in originals:
        if not getattr(copies[id(original)], "built", True):
            continue  # It was left out.
        if isinstance(original, keras.Layer) and keeps_weights:
            copy_state(original, copies[id(original)], caller)
        elif isinstance(original, keras.Layer):
            copies[id(original)].trainable = original.trainable
    return rebuilt
