"""The forward pass of K models through one model's graph."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastools._core.graph.calls import sublayers
from kerastools._core.keras_private.compiled_model import graph_nodes, run_through_graph
from kerastools.search._stacked.rules import find_rule, one_by_one
from kerastools.search._stacked.stacked_tensor import StackedTensor, StackedValues


def call_stacked(
    layer: Any, values: Any, training: bool, /, *args: Any, **kwargs: Any
) -> StackedTensor:
    """Returns what `layer` makes of its arguments for every model.

    By the rule of its kind where there is one and it is called in the usual way; else model by
    model, in the same program.
    """
    # Keras, too, puts its own `training` in place of the one with which the graph was made.
    kwargs = {name: v for name, v in kwargs.items() if v is not None and name != "training"}
    if is_graph(layer) and not kwargs:
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


def is_graph(layer: Any) -> bool:
    kept = type(layer) in (keras.Sequential, keras.Model) or type(layer).__module__.startswith(
        "keras."
    )
    return isinstance(layer, keras.Model) and kept and graph_nodes(layer) is not None


class SharedTraces:
    """The functions of layers of which a model has several: a deep net is traced in less time.

    Args:
        model: The model whose layers they are.
    """

    def __init__(self, model: Any) -> None:
        kinds = {id(layer): _kind(layer) for layer in sublayers(model)}
        count = Counter(kinds.values())
        self.kinds = {name: kind for name, kind in kinds.items() if kind and count[kind] > 1}
        self.functions: dict[Any, _LayerFunction] = {}

    def __contains__(self, layer: Any) -> bool:
        return id(layer) in self.kinds

    def call(
        self, rule: Callable[..., Any], layer: Any, values: Any, training: bool, x: StackedTensor
    ) -> StackedTensor:
        """Returns what `rule` makes of `x` for `layer`, by the trace of one of its kind."""
        kind = self.kinds[id(layer)], training, values.common_seeds, x.held, tuple(x.value.shape)
        if kind not in self.functions:
            self.functions[kind] = _LayerFunction(rule, layer, values, training, x.held)
        return self.functions[kind](layer, values, x)


class _LayerFunction:
    def __init__(
        self, rule: Callable[..., Any], layer: Any, values: Any, training: bool, held: str
    ) -> None:
        def call(value: Any, variables: list[Any]) -> tuple[Any, dict[str, Any]]:
            ids = [id(v) for v in layer.variables]
            inner = StackedValues(
                values.size, dict(zip(ids, variables, strict=True)), values.common_seeds
            )
            y = rule(layer, inner, training, StackedTensor(values.size, **{held: value}))
            self.held = y.held
            return y.value, {str(ids.index(name)): new for name, new in inner.new.items()}

        self.function = tf.function(call, autograph=False)

    def __call__(self, layer: Any, values: Any, x: StackedTensor) -> StackedTensor:
        variables = layer.variables
        y, new = self.function(x.value, [values.now(v) for v in variables])
        for index, value in new.items():
            values.set(variables[int(index)], value)
        return StackedTensor(x.size, **{self.held: y})


def _kind(layer: Any) -> str:
    """Returns the same for two layers that compute the same of the same numbers, or ""."""
    if not isinstance(layer, keras.Layer) or len(sublayers(layer)) > 1:
        return ""
    if hasattr(layer, "adapt"):  # What it learned of the data is not in its configuration.
        return ""
    config = {name: value for name, value in layer.get_config().items() if name != "name"}
    shapes = [tuple(v.shape) for v in layer.variables]
    return f"{type(layer)} {json.dumps(config, sort_keys=True, default=repr)} {shapes}"
