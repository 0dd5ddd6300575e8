"""The figures of a model's layers computed inside the graph, to be taken again and again."""

from typing import Any

import keras
from keras import ops

from kerastools._core.compiled import compiled
from kerastools._core.graph.activations import activation_name, own_activation
from kerastools._core.graph.calls import read_graph
from kerastools._core.graph.fans import is_kernel
from kerastools.diagnosis._probe.saturation import RECTIFIED, saturated_beyond
from kerastools.diagnosis._probe.signals import LossFunction, both_ways

FIGURES = ("second_moment", "gradient_norm", "weight_norm", "saturated", "dead")
_NAN = float("nan")


class Watch:
    """Takes the figures of every layer with kernels or a bounded or rectified activation.

    Attributes:
        layers: Their paths, in the order of computation; known after the first figures.
    """

    def __init__(self, model: Any, loss: LossFunction, caller: str) -> None:
        self.layers: list[str] = []
        graph = read_graph(model, caller)
        trained = list(model.trainable_variables)
        ids = {id(v) for v in trained}
        # Each variable once; those that train first.
        self._variables = trained + [v for v in model.variables if id(v) not in ids]

        def figures(values: list[Any], x: Any, y: Any) -> Any:
            every = self._variables
            _, calls, gradients = both_ways(graph, x, y, loss, every, values, len(trained))
            by_id = {id(v): pair for v, *pair in zip(trained, values, gradients, strict=False)}
            rows, self.layers = [], []
            for call, _, _, output in calls:
                row = _row(call.operation, output, by_id)
                if row is not None:
                    self.layers.append(call.path)
                    rows.append(ops.stack([ops.cast(figure, "float32") for figure in row]))
            return ops.stack(rows)

        self._figures = compiled(figures)

    def figures(self, x: Any, y: Any) -> Any:
        """Returns an array (layers, figures) in the order of `layers` and `FIGURES`."""
        values = [ops.convert_to_tensor(v) for v in self._variables]
        return ops.convert_to_numpy(self._figures(values, x, y))


def _row(operation: Any, output: Any, by_id: dict[int, Any]) -> list[Any] | None:
    """Returns the figures of one call, NaN for those that it has not; `None` if it has none."""
    if not isinstance(operation, keras.Layer) or "float" not in str(output.dtype):
        return None
    kernels = [by_id[id(v)] for v in operation.trainable_weights if is_kernel(v)]
    activation = activation_name(own_activation(operation))
    bounds = saturated_beyond(activation)
    if not (kernels or bounds or activation in RECTIFIED):
        return None
    output = ops.cast(output, "float32")
    saturated, dead = _NAN, _NAN
    if bounds:
        outside = ops.logical_or(output < bounds[0], output > bounds[1])
        saturated = ops.mean(ops.cast(outside, "float32"))
    if activation in RECTIFIED:
        zero = ops.all(ops.equal(output, 0.0), axis=tuple(range(len(output.shape) - 1)))
        dead = ops.mean(ops.cast(zero, "float32"))
    return [
        ops.mean(ops.square(output)),
        _norm([gradient for _, gradient in kernels]),
        _norm([weight for weight, _ in kernels]),
        saturated,
        dead,
    ]


def _norm(tensors: list[Any]) -> Any:
    if not tensors:
        return _NAN
    squares = [ops.sum(ops.square(ops.cast(t, "float32"))) for t in tensors]
    return ops.sqrt(sum(squares))
