"""The layers of a model, computed for many models at once."""

from typing import Any

import keras

from kerastools._core.graph.calls import sublayers
from kerastools._core.keras_private.compiled_model import graph_nodes, run_through_graph
from kerastools.search._stacked.rules import find_rule, one_by_one
from kerastools.search._stacked.rules.activation import is_keras_function
from kerastools.search._stacked.stacked_tensor import StackedTensor

_MASKS = "it masks time steps, which the layers behind it must know of"


def call_stacked(
    layer: Any, values: Any, training: bool, /, *args: Any, **kwargs: Any
) -> StackedTensor:
    """Returns what `layer` makes of its arguments for every model.

    By the rule of its kind where there is one and it is called in the usual way; else model by
    model, in the same program.
    """
    # Keras, too, puts its own `training` in place of the one with which the graph was made.
    kwargs = {name: v for name, v in kwargs.items() if v is not None and name != "training"}
    if _is_graph(layer) and not kwargs:
        return forward(layer, values, training, *args)
    rule = find_rule(layer)
    if rule is None or kwargs or len(args) != 1:
        rule = one_by_one
    elif values.traces is not None and layer in values.traces and not isinstance(args[0], list):
        return values.traces.call(rule, layer, values, training, args[0])
    return rule(layer, values, training, *args, **kwargs)


def forward(model: Any, values: Any, training: bool, inputs: Any) -> Any:
    """Returns the outputs of the graph of `model` for every model."""
    return run_through_graph(
        model,
        inputs,
        lambda layer, *args, **kwargs: call_stacked(layer, values, training, *args, **kwargs),
    )


def why_layer_cannot_stack(layer: Any) -> str | None:
    """Returns what hinders `layer` from being stacked, or `None`."""
    if _is_graph(layer):
        reasons = (why_layer_cannot_stack(node) for node, _, _ in graph_nodes(layer)[0])  # type: ignore[index]
        return next((reason for reason in reasons if reason), None)
    name = f"layer {layer.name!r}"
    if not type(layer).__module__.startswith(("keras.", "kerastools.")):
        return f"{name} is a {type(layer).__name__}, a layer of its own kind"
    if not isinstance(layer, keras.Layer):
        return None  # An operation of keras.ops.
    parts = sublayers(layer)
    if any(part.compute_dtype != "float32" or part.variable_dtype != "float32" for part in parts):
        return f"{name} computes in {layer.compute_dtype}"
    for part in parts:
        if getattr(part, "activity_regularizer", None) is not None:
            return f"{name} has an activity regularizer"
        if type(part) is keras.layers.Masking or getattr(part, "mask_zero", False):
            return f"{name}: {_MASKS}"
        if getattr(part, "recurrent_dropout", 0) or (
            isinstance(part, keras.layers.RNN) and getattr(part, "dropout", 0)
        ):
            return f"{name} draws its dropout within its cell"
        if getattr(part, "stateful", False):
            return f"{name} keeps its state from batch to batch"
        if not type(part).__module__.startswith(("keras.", "kerastools.")):
            return f"{name} has a {type(part).__name__}, a layer of its own kind"
    for attribute in ("activation", "recurrent_activation", "function"):
        function = getattr(layer, attribute, None)
        if function is not None and not is_keras_function(function):
            return f"{name} has an {attribute} of its own"
    prepares = ".preprocessing." in type(layer).__module__ and layer.variables
    if prepares and type(layer) is not keras.layers.Normalization:
        return f"{name} is a {type(layer).__name__}, which prepares data"
    return None


def _is_graph(layer: Any) -> bool:
    kept = type(layer) in (keras.Sequential, keras.Model) or type(layer).__module__.startswith(
        "keras."
    )
    return isinstance(layer, keras.Model) and kept and graph_nodes(layer) is not None
