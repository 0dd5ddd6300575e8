"""Making a model again with some of its layers changed and others between them."""

import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from kerastools._core.graph.calls import (
    Call,
    Graph,
    calls,
    has_graph,
    is_array,
    read_graph,
    replay,
    sublayers,
    takes_training,
)
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.graph_nodes import mask_of, shape_of_lambda, twin_of_function
from kerastools._core.sample_inputs import sample_inputs

_ROUNDING = 1e-5

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
        new = _model_like(graph, packed, replay(graph, packed, call, enter=False))
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


def _model_like(graph: Graph, inputs: Any, outputs: Any) -> Any:
    """Returns the model of these symbolic tensors, a Sequential one where it can be."""
    packed = tree.pack_sequence_as(graph.output_structure, tree.flatten(outputs))
    new = keras.Model(inputs, packed, name=graph.model.name)
    if isinstance(graph.model, keras.Sequential) and _is_chain(new):
        return keras.Sequential(new.layers, name=new.name)
    return new


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
        copy_assets(a, b)
    # After the layers' own loading, which merges LoRA weights and skips random state.
    for v, w in zip(old, new, strict=True):
        w.assign(keras.ops.copy(v))
        w.trainable = v.trainable


def copy_assets(source: Any, target: Any) -> None:
    """Copies what a layer keeps beside variables, such as the vocabulary of a lookup layer."""
    if hasattr(source, "save_assets"):
        with tempfile.TemporaryDirectory() as directory:
            source.save_assets(directory)
            target.load_assets(directory)


def open_layers(model: Any, wanted: Callable[[Any], bool]) -> Any:
    """Returns a model on the same layers in which layers that hold layers are nested models.

    Opened is a layer that `wanted` asks for, that is called once, and whose `call`, in inference,
    is proved to do no more than call layers and `keras.ops` functions. If there is none, `model`
    itself comes back.

    Args:
        model: A functional or Sequential model; its layers are called again, and left alone.
        wanted: Says which layers to open.
    """
    graph = Graph(model)
    times = Counter(id(call.operation) for call in graph.calls)
    inner: dict[int, Any] = {}
    for call in graph.calls:
        layer = call.operation
        if has_graph(layer):
            inner[id(layer)] = open_layers(layer, wanted)
        elif times[id(layer)] == 1 and _is_layer(layer) and wanted(layer):
            inner[id(layer)] = _traced(call) or layer
    if all(inner.get(id(call.operation), call.operation) is call.operation for call in graph.calls):
        return model

    def opened(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = inner.get(id(call.operation), call.operation)
        if new is call.operation or has_graph(call.operation):
            return new(*args, **kwargs)
        tensors = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        passed = dict(zip(map(id, call.inputs), tensors, strict=True))
        return new(list(passed.values()))

    inputs = [copy_operation(layer, "open_layers").output for layer in graph.input_layers]
    packed = tree.pack_sequence_as(graph.input_structure, inputs)
    return _model_like(graph, packed, replay(graph, packed, opened, enter=False))


def _traced(call: Call) -> Any:
    """Returns what a layer computes in inference as a model on the layers inside it, or `None`.

    `None` stands for all that is not proved: weights of its own, values that were computed from
    weights when it was traced, losses, masks, changes of state, other results.
    """
    layer = call.operation
    inside = {id(v) for part in sublayers(layer)[1:] for v in part.variables}
    if any(id(v) not in inside for v in layer.variables) or not all(
        part.built for part in sublayers(layer)
    ):
        return None
    if layer.activity_regularizer is not None or any(mask_of(t) is not None for t in call.inputs):
        return None
    fresh = {id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in call.inputs}
    args, kwargs = call.filled_in(fresh)
    if takes_training(layer):
        kwargs["training"] = False
    try:
        with keras.StatelessScope(collect_losses=True) as scope:
            outputs = layer.call(*args, **kwargs)
        model = keras.Model(list(fresh.values()), outputs, name=layer.name)
    except Exception:
        return None  # Its code asks for values, or for shapes that are open.
    changed = any(scope.get_current_value(v) is not None for v in layer.variables)
    constants = [x for one in calls(model) for x in tree.flatten((one.args, one.kwargs))]
    if changed or scope.losses or any(isinstance(x, keras.Variable) for x in constants):
        return None
    if any(is_array(x) and x is not None for x in constants):
        return None
    values = tree.flatten(sample_inputs(Graph(model), None, "open_layers"))
    args, kwargs = call.filled_in(dict(zip(fresh, values, strict=True)))
    if takes_training(layer):
        kwargs["training"] = False
    with keras.StatelessScope():
        wanted = tree.flatten(layer(*args, **kwargs))
        found = tree.flatten(model(values, training=False))
    pairs = list(zip(wanted, found, strict=True))
    return model if all(_agree(a, b) for a, b in pairs) else None


def _agree(a: Any, b: Any) -> bool:
    """Whether two results are equal but for the rounding of a compiled function."""
    first, second = (keras.ops.convert_to_numpy(x).astype("float64") for x in (a, b))
    if a.dtype != b.dtype or first.shape != second.shape:
        return False
    return bool(np.abs(first - second).max(initial=0) <= _ROUNDING * np.abs(first).max(initial=0))
