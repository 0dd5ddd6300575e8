"""What flows forward and backward through each layer of a model, measured without changing it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.graph.calls import read_graph
from kerastools._core.graph.fans import is_kernel
from kerastools._core.graph.replay import call_in_training, run_graph

LossFunction = Callable[[Any, Any], Any]


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One call of a layer in a training step.

    Attributes:
        path: Its name, after the names of the models that it is inside of.
        layer: The layer or operation.
        entering: What it was called on, the first tensor where there are several; `None` if none.
        output: What it returned, the first tensor where there are several.
        kernels: Its trainable kernels, those of layers inside it included.
        gradients: The loss's gradient by each of them.
        returned: The place of its output among the model's outputs; `None` where it is hidden.
    """

    path: str
    layer: Any
    entering: np.ndarray | None
    output: np.ndarray
    kernels: tuple[np.ndarray, ...]
    gradients: tuple[np.ndarray, ...]
    returned: int | None

    @property
    def is_output(self) -> bool:
        """Whether the model returns its output."""
        return self.returned is not None


def measure(
    model: Any, x: Any, y: Any, loss: LossFunction, caller: str
) -> tuple[float, list[LayerRecord]]:
    """Runs one forward and one backward pass as in training; returns the loss and the records.

    Moving statistics, random states, metrics and weights of `model` are left as they are, to the
    bit: everything runs in a `keras.StatelessScope`.
    """
    graph = read_graph(model, caller)
    variables = list(model.trainable_variables)

    def forward(values: list[Any]) -> tuple[Any, list[Any]]:
        calls: list[tuple[str, Any, Any, Any]] = []

        def apply(path: str, operation: Any, args: Any, kwargs: Any) -> Any:
            result = call_in_training(operation, args, kwargs)
            tensors = [a for a in tree.flatten((args, kwargs)) if keras.ops.is_tensor(a)]
            entering = tensors[0] if tensors else None
            calls.append((path, operation, entering, tree.flatten(result)[0]))
            return result

        with keras.StatelessScope(zip(variables, values, strict=True)):
            outputs = run_graph(graph, x, apply)
            predictions = outputs[0]
            if len(outputs) > 1:
                predictions = tree.pack_sequence_as(graph.output_structure, outputs)
            value = loss(y, predictions)
        names[:] = [(path, operation) for path, operation, *_ in calls]
        returned[:] = [_place(out, outputs) for *_, out in calls]
        return value, [(entering, out) for *_, entering, out in calls]

    names: list[tuple[str, Any]] = []
    returned: list[int | None] = []
    value, passed, gradients = differentiate(forward, [v.value for v in variables])
    by_variable = {id(v): np.asarray(g) for v, g in zip(variables, gradients, strict=True)}
    records = []
    for (path, operation), (entering, output), place in zip(names, passed, returned, strict=True):
        kernels = [
            v
            for v in getattr(operation, "trainable_weights", [])
            if is_kernel(v) and id(v) in by_variable
        ]
        records.append(
            LayerRecord(
                path,
                operation,
                None if entering is None else _to_numpy(entering),
                _to_numpy(output),
                tuple(_to_numpy(v) for v in kernels),
                tuple(by_variable[id(v)] for v in kernels),
                place,
            )
        )
    return float(_to_numpy(value)), records


def differentiate(
    function: Callable[[list[Any]], tuple[Any, list[Any]]], values: list[Any]
) -> tuple[Any, list[Any], list[Any]]:
    """Returns the value, the side outputs and the gradients of `function` at `values`."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        values = [tf.convert_to_tensor(v) for v in values]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            value, outputs = function(values)
        gradients = tape.gradient(value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # The gradient of an embedding is sparse.
        return value, outputs, [tf.convert_to_tensor(g) for g in gradients]
    if backend == "jax":
        import jax

        (value, outputs), gradients = jax.value_and_grad(function, has_aux=True)(values)
        return value, outputs, gradients
    raise NotImplementedError(
        "Gradients per layer are measured on the TensorFlow and JAX backends. Received the "
        f"backend {backend!r}. Set KERAS_BACKEND=tensorflow or jax before Keras is imported."
    )


def _place(tensor: Any, outputs: list[Any]) -> int | None:
    return next((i for i, output in enumerate(outputs) if output is tensor), None)


def _to_numpy(tensor: Any) -> np.ndarray:
    array = ops.convert_to_numpy(tensor)
    # bfloat16 has no arithmetic in NumPy.
    return array.astype("float32") if array.dtype.kind not in "fiub" else array
