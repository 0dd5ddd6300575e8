"""Layers that compute alike, traced once for all of them."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastools._core.graph.calls import sublayers
from kerastools.search._stacked.stacked_tensor import StackedTensor
from kerastools.search._stacked.stacked_values import StackedValues


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
