"""Making a model again with some of its layers changed and others between them."""

import tempfile
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from kerastools._core.graph.calls import Call, Graph, has_graph, read_graph, replay, sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.graph_nodes import shape_of_lambda, twin_of_function

# Takes the path and the original; returns the changed layer and whether it takes over the
# original's weights, or None where a copy will do.
Change = Callable[[str, Any], tuple[Any, bool] | None]
# Takes the original call, the new layer and its arguments; returns what comes out.
Connect = Callable[[Call, Any, tuple[Any, ...], dict[str, Any]], Any]


def rebuild(
    model: Any, caller: str, change: Change | None = None, connect: Connect | None = None
) -> Any:
    """Returns a model like `model`, nested models included, with layers and weights of its own.

    A Sequential model comes back as one, unless what `connect` makes of it is no chain.

    Args:
        model: A built functional or Sequential model; it is left alone.
        caller: Named in messages of errors.
        change: Says for each layer what takes its place. Inside a layer, a wrapper say, it is not
            asked.
        connect: Calls the new layers and nested models; it may put others before or behind, or
            leave one out.

    Returns:
        A model that is not compiled.
    """
    copies: dict[int, Any] = {}
    originals: list[tuple[Any, bool]] = []

    def copy(path: str, operation: Any) -> Any:
        if id(operation) not in copies:
            changed = change(path, operation) if change and _is_layer(operation) else None
            new, keeps_weights = changed or (copy_operation(operation, caller), True)
            copies[id(operation)] = new
            originals.append((operation, keeps_weights))
        return copies[id(operation)]

    def build(graph: Graph) -> Any:
        # The class and sizes of an input are in its configuration; it is never changed.
        inputs = [copy_operation(layer, caller).output for layer in graph.input_layers]

        def call(original: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            operation = original.operation
            if not has_graph(operation):
                new = copy(original.path, operation)
            elif id(operation) in copies:
                new = copies[id(operation)]
            else:
                new = build(Graph(operation, f"{original.path}/"))
            return connect(original, new, args, kwargs) if connect else new(*args, **kwargs)

        packed = tree.pack_sequence_as(graph.input_structure, inputs)
        outputs = tree.flatten(replay(graph, packed, call, enter=False))
        packed_outputs = tree.pack_sequence_as(graph.output_structure, outputs)
        new = keras.Model(packed, packed_outputs, name=graph.model.name)
        if isinstance(graph.model, keras.Sequential) and _is_chain(new):
            new = keras.Sequential(new.layers, name=new.name)
        copies[id(graph.model)] = new
        return new

    rebuilt = build(read_graph(model, caller))
    # Setting the flag of a model sets those of its layers: parents first.
    for nested in (layer for layer in sublayers(model) if has_graph(layer)):
        if id(nested) in copies:
            copies[id(nested)].trainable = nested.trainable
    for original, keeps_weights in originals:
        new = copies[id(original)]
        if not getattr(new, "built", True):
            continue  # It was left out.
        if _is_layer(original) and keeps_weights:
            copy_state(original, new, caller)
        elif _is_layer(original):
            new.trainable = original.trainable
    return rebuilt


def _is_layer(operation: Any) -> bool:
    return isinstance(operation, keras.Layer)


def _is_chain(model: Any) -> bool:
    """Whether each layer of `model`, called once, takes what the one before returns.

    Masks, which a Sequential model lets travel with the tensors, may be computed beside it.
    """
    graph = Graph(model)
    tensors = [*map(id, graph.inputs)]
    for call in graph.calls:
        if _is_layer(call.operation):
            if [*map(id, tree.flatten(call.first_argument()))] != tensors:
                return False
            tensors = [*map(id, call.outputs)]
    called = [id(call.operation) for call in graph.calls if _is_layer(call.operation)]
    return (
        len(graph.inputs) == 1
        and len(set(called)) == len(called)
        and tensors == [*map(id, graph.outputs)]
    )


def copy_operation(operation: Any, caller: str) -> Any:
    """Returns a new operation of the same class and configuration; layers come back unbuilt.

    Raises:
        ValueError: If a layer cannot be made again from its configuration.
    """
    if not isinstance(operation, keras.Layer):
        return twin_of_function(operation)
    if is_kind(operation, "lambda"):
        # From its configuration a lambda would lose the names that it refers to.
        return keras.layers.Lambda(
            operation.function,
            output_shape=shape_of_lambda(operation),
            mask=operation.mask,
            arguments=operation.arguments,
            name=operation.name,
            dtype=operation.dtype_policy,
        )
    return layer_from_config(operation, {}, caller)


def layer_from_config(layer: Any, changes: dict[str, Any], caller: str) -> Any:
    """Returns a new layer of `layer`'s class and configuration, but for `changes`."""
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except Exception as error:
        raise ValueError(
            f'{caller} could not copy layer "{layer.name}" of type {type(layer).__name__} from its '
            f"get_config(): {error} Give the class a complete get_config, and decorate functions "
            "and classes of your own with keras.saving.register_keras_serializable."
        ) from error


def copy_state(source: Any, target: Any, caller: str) -> None:
    """Copies weights, random state, vocabularies and trainable flags between two equal layers."""
    pairs = list(zip(sublayers(source), sublayers(target), strict=False))
    old, new = source.variables, target.variables
    if [v.shape for v in old] != [v.shape for v in new] or len(sublayers(target)) != len(pairs):
        raise ValueError(
            f'{caller} could not copy layer "{source.name}" of type {type(source).__name__}: made '
            f"again from its get_config() it has {len(new)} variables of shapes "
            f"{[tuple(v.shape) for v in new]}, but the original has {len(old)} of shapes "
            f"{[tuple(v.shape) for v in old]}. Give the class a complete get_config."
        )
    for a, b in pairs:
        b.trainable = a.trainable
        store: dict[str, Any] = {}
        a.save_own_variables(store)
        b.load_own_variables(store)
        # The vocabularies of lookup layers are no variables.
        if hasattr(a, "save_assets"):
            with tempfile.TemporaryDirectory() as directory:
                a.save_assets(directory)
                b.load_assets(directory)
    # After the layers' own loading, which merges LoRA weights and skips random state.
    for v, w in zip(old, new, strict=True):
        w.assign(keras.ops.copy(v))
        w.trainable = v.trainable
