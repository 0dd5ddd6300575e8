"""The forward pass of K models through one model's graph."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastools._core.graph.calls import Call, Graph, has_graph, replay, sublayers
from kerastools.search._stacked.rules import find_rule, one_by_one
from kerastools.search._stacked.stacked_tensor import Layout, StackedTensor, StackedValues


def forward(model: Any, values: Any, training: bool, inputs: Any) -> Any:
    """Returns the outputs of the graph of `model` for K models."""

    def stacked(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StackedTensor:
        return call_stacked(call.operation, values, training, *args, **kwargs)

    return replay(Graph(model), inputs, stacked, enter=False)


def call_stacked(
    layer: Any, values: Any, training: bool, /, *args: Any, **kwargs: Any
) -> StackedTensor:
    """Returns the output of `layer` for K models.

    By the stacking rule of its class if there is one and the layer is called with one argument;
    otherwise model by model, in the same program.
    """
    # Keras, too, replaces the `training` with which the graph was made.
    kwargs = {name: v for name, v in kwargs.items() if v is not None and name != "training"}
    if is_graph(layer) and not kwargs:
        return forward(layer, values, training, *args)
    rule = find_rule(layer)
    if rule is None or kwargs or len(args) != 1:
        rule = one_by_one
    elif values.traces is not None and layer in values.traces and not isinstance(args[0], list):
        return values.traces.call(rule, layer, values, training, args[0])
    return rule(layer, values, training, *args, **kwargs)


def is_graph(layer: Any) -> bool:
    """Whether `layer` is a functional or Sequential model that computes its graph and no more."""
    return has_graph(layer) and type(layer).__module__.startswith("keras.")


class SharedTraces:
    """One traced function for all layers that compute the same: a deep net is traced faster.

    Args:
        model: The model whose layers they are.
    """

    def __init__(self, model: Any) -> None:
        keys = {id(layer): _key(layer) for layer in sublayers(model)}
        count = Counter(keys.values())
        self.keys = {name: key for name, key in keys.items() if key and count[key] > 1}
        self.functions: dict[Any, _LayerFunction] = {}

    def __contains__(self, layer: Any) -> bool:
        return id(layer) in self.keys

    def call(
        self, rule: Callable[..., Any], layer: Any, values: Any, training: bool, x: StackedTensor
    ) -> StackedTensor:
        """Returns `rule(layer, values, training, x)`, by the trace of a layer that is the same."""
        key = self.keys[id(layer)], training, values.same_seeds, x.layout, tuple(x.value.shape)
        if key not in self.functions:
            self.functions[key] = _LayerFunction(rule, layer, values, training, x.layout)
        return self.functions[key](layer, values, x)


class _LayerFunction:
    def __init__(
        self, rule: Callable[..., Any], layer: Any, values: Any, training: bool, layout: Layout
    ) -> None:
        def call(value: Any, variables: list[Any]) -> tuple[Any, dict[str, Any]]:
            ids = [id(v) for v in layer.variables]
            inner = StackedValues(
                values.size, dict(zip(ids, variables, strict=True)), values.same_seeds
            )
            y = rule(layer, inner, training, StackedTensor(values.size, **{layout.value: value}))
            self.layout = y.layout
            return y.value, {str(ids.index(name)): new for name, new in inner.new.items()}

        self.function = tf.function(call, autograph=False)

    def __call__(self, layer: Any, values: Any, x: StackedTensor) -> StackedTensor:
        variables = layer.variables
        y, new = self.function(x.value, [values.now(v) for v in variables])
        for index, value in new.items():
            values.set(variables[int(index)], value)
        return StackedTensor(x.size, **{self.layout.value: y})


def _key(layer: Any) -> str:
    """Returns text that is equal for two layers that compute the same, or "" to share nothing."""
    if not isinstance(layer, keras.Layer) or len(sublayers(layer)) > 1:
        return ""
    if hasattr(layer, "adapt"):  # What it was adapted to is not in its configuration.
        return ""
    config = {name: value for name, value in layer.get_config().items() if name != "name"}
    shapes = [tuple(v.shape) for v in layer.variables]
    return f"{type(layer)} {json.dumps(config, sort_keys=True, default=repr)} {shapes}"
