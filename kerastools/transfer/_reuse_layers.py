"""`reuse_layers`: the lower layers of a trained model as a new trunk."""

from typing import Any

import keras

from kerastools._core.graph.calls import Call, Graph, calls, read_graph
from kerastools._core.graph.rebuild import rebuild
from kerastools._core.replicas import in_strategy_scope

_NAME = "reuse_layers"


@in_strategy_scope
def reuse_layers(
    model: keras.Model,
    upto: str | keras.Layer,
    weights: str = "copy",
    rename: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Returns the lower layers of `model`, up to the output of one layer, as a new model.

    The first step of transfer learning: add a new head to this trunk, and train it under a
    `kerastools.callbacks.FreezeSchedule`. Works for functional and Sequential models with branches,
    shared layers and nested models; inputs that the layer does not depend on are dropped. `model`
    is not changed.

    Args:
        model: A built functional or Sequential model.
        upto: The last reused layer: a layer, its name, or its path in nested models, such as
            `"backbone/block_5_add"`. It must be called once in the graph.
        weights: `"copy"`: the trunk has its own layers and weights. `"shared"`: it shares the
            layers of `model`, with their weights and trainable flags.
        rename: Format of the names of copied layers, such as `"trunk_{}"`, to avoid conflicts with
            new layers. By default they keep their names.
        name: Name of the trunk. By default `"<model>_upto_<layer>"`.

    Returns:
        A functional model, not compiled. Copied layers keep their trainable flags.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If `model` is not built or is subclassed, `upto` is not found, is called more
            than once or is ambiguous, `weights` is unknown, shared layers would be renamed, or a
            layer cannot be created from its `get_config()`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(6, name="lower"),
    ...     keras.layers.Dense(4, name="upper"),
    ...     keras.layers.Dense(3, name="classes"),
    ... ])
    >>> trunk = reuse_layers(model, upto="upper")
    >>> model = keras.Sequential([trunk, keras.layers.Dense(2, name="head")])
    >>> [layer.name for layer in trunk.layers[1:]], model.output_shape
    (['lower', 'upper'], (None, 2))

    Reference: Yosinski, Clune, Bengio and Lipson, "How transferable are features in deep neural
    networks?", NeurIPS 2014.
    """
    if weights not in ("copy", "shared"):
        raise ValueError(f'{_NAME} needs weights to be "copy" or "shared". Received {weights!r}.')
    if rename is not None and (weights == "shared" or rename.format("x") == rename):
        raise ValueError(
            f'{_NAME} needs rename to be a format such as "trunk_{{}}", for copied layers; shared '
            f"layers keep their names. Received rename={rename!r}, weights={weights!r}."
        )
    graph = read_graph(model, _NAME)
    path = _find(graph, upto)
    inputs, output = _cut(graph, path.split("/"))
    name = name or f"{model.name}_upto_{path.replace('/', '_')}"
    trunk = keras.Model(inputs[0] if len(inputs) == 1 else inputs, output, name=name)
    if weights == "shared":
        return trunk

    def renamed(call: Call, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if rename is not None and "/" not in call.path:
            layer.name = rename.format(call.operation.name)
        return layer(*args, **kwargs)

    return rebuild(trunk, _NAME, connect=renamed)


def _find(graph: Graph, upto: Any) -> str:
    paths = [
        (c.path, c.operation) for c in calls(graph.model) if isinstance(c.operation, keras.Layer)
    ]
    if isinstance(upto, keras.Layer):
        found = [path for path, layer in paths if layer is upto]
    else:
        found = [path for path, _ in paths if path == upto]
        found = found or [path for path, layer in paths if layer.name == upto]
    shown = upto.name if isinstance(upto, keras.Layer) else upto
    if not found:
        raise ValueError(
            f'{_NAME} found no layer {shown!r} in model "{graph.model.name}". It has '
            f"{', '.join(path for path, _ in paths)}."
        )
    if len(found) > 1:
        raise ValueError(
            f"{_NAME} needs a layer that is called once. Received {shown!r}, which has "
            f"{len(found)} calls: {' and '.join(found)}. Pass another layer, or a path."
        )
    return found[0]


def _cut(graph: Graph, path: list[str]) -> tuple[list[Any], Any]:
    """Returns the inputs that the last layer of `path` depends on, and its output."""
    (call,) = [
        c
        for c in graph.calls
        if c.operation.name == path[0] and isinstance(c.operation, keras.Layer)
    ]
    if len(path) == 1:
        return _ancestors(graph, call), _structured(call)
    # In a nested model, its lower part is called with the arguments of the whole.
    inner_graph = Graph(call.operation)
    inputs, output = _cut(inner_graph, path[1:])
    inner = keras.Model(inputs, output, name=call.operation.name)
    passed = inner_graph.by_input(call.first_argument())
    arguments = {id(t): outer for t, outer in zip(inner_graph.inputs, passed, strict=True)}
    output = inner([arguments[id(t)] for t in inputs])
    return _ancestors(graph, call), output


def _structured(call: Call) -> Any:
    return call.outputs[0] if len(call.outputs) == 1 else list(call.outputs)


def _ancestors(graph: Graph, call: Call) -> list[Any]:
    """Returns the inputs of the graph on which `call` depends, in their order."""
    seen: set[int] = set()
    waiting = list(call.inputs)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            producer = graph.producer(tensor)
            waiting += [] if producer is None else list(producer.inputs)
    return [tensor for tensor in graph.inputs if id(tensor) in seen]
