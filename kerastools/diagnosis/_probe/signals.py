"""What flows forward and backward through each layer of a model, measured without changing it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.graph.calls import Call, Graph, as_recorded, read_graph, replay
from kerastools._core.graph.fans import is_kernel

# Takes what is compared with the predictions, and the predictions; returns a scalar.
LossFunction = Callable[[Any, Any], Any]
# Takes a call of the graph, what it was called on, and what it returned, both flat.
Look = Callable[[Call, list[Any], list[Any]], None]


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
    now = [v.value for v in variables]
    value, calls, gradients = both_ways(graph, x, y, loss, variables, now, len(now))
    by_variable = {id(v): np.asarray(g) for v, g in zip(variables, gradients, strict=True)}
    records = []
    for call, place, entering, output in calls:
        kernels = [
            v
            for v in getattr(call.operation, "trainable_weights", [])
            if is_kernel(v) and id(v) in by_variable
        ]
        records.append(
            LayerRecord(
                call.path,
                call.operation,
                None if entering is None else to_numpy(entering),
                to_numpy(output),
                tuple(to_numpy(v) for v in kernels),
                tuple(by_variable[id(v)] for v in kernels),
                place,
            )
        )
    return float(to_numpy(value)), records


def output_gradients(
    model: Any, x: Any, y: Any, loss: LossFunction, records: list[LayerRecord], caller: str
) -> list[tuple[str, float]]:
    """Returns the path of every layer, and the norm of the loss's gradient by its output."""
    graph = read_graph(model, caller)
    floats = [r for r in records if r.output.dtype.kind == "f"]

    def forward(added: list[Any]) -> tuple[Any, list[Any]]:
        rest = iter(added)

        def call_and_add(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            outputs = as_recorded(call, args, kwargs)
            first, *others = tree.flatten(outputs)
            if "float" in keras.backend.standardize_dtype(first.dtype):
                first = first + ops.cast(next(rest), first.dtype)
            return tree.pack_sequence_as(outputs, [first, *others])

        state = [(v, v.value) for v in model.trainable_variables]
        with keras.StatelessScope(state, collect_losses=True):
            return loss(y, replay(graph, x, call_and_add, training=True)), []

    zeros = [np.zeros(r.output.shape, "float32") for r in floats]
    _, _, gradients = differentiate(forward, [ops.convert_to_tensor(z) for z in zeros])
    norms = [float(np.linalg.norm(to_numpy(g))) for g in gradients]
    return [(r.path, norm) for r, norm in zip(floats, norms, strict=True)]


def both_ways(
    graph: Graph,
    x: Any,
    y: Any,
    loss: LossFunction,
    variables: list[Any],
    values: list[Any],
    num_trained: int,
) -> tuple[Any, list[tuple[Call, int | None, Any, Any]], list[Any]]:
    """Returns the loss, what went through each call, and the gradients at the first values.

    What went through is the call, the place of its output among those of the model if it is one of
    them, the first tensor that entered, or `None`, and its first output.
    """
    calls: list[tuple[Call, int | None]] = []

    def forward(trained: list[Any]) -> tuple[Any, list[Any]]:
        seen: list[tuple[Call, Any, Any]] = []

        def look(call: Call, entering: list[Any], outputs: list[Any]) -> None:
            seen.append((call, next(iter(entering), None), outputs[0]))

        state = zip(variables, [*trained, *values[num_trained:]], strict=True)
        value, predictions = training_pass(graph, x, y, loss, state, look)
        returned = tree.flatten(predictions)
        calls[:] = [(call, _place(output, returned)) for call, _, output in seen]
        return value, [(entering, output) for _, entering, output in seen]

    value, passed, gradients = differentiate(forward, values[:num_trained])
    return value, [(*c, *p) for c, p in zip(calls, passed, strict=True)], gradients


def training_pass(
    graph: Graph,
    x: Any,
    y: Any,
    loss: LossFunction,
    state: Iterable[tuple[Any, Any]],
    look: Look = lambda call, entering, outputs: None,
    keep: Callable[[Any], None] = lambda scope: None,
) -> tuple[Any, Any]:
    """Returns the loss and the predictions of a forward pass as in training.

    Every call is shown to `look`. `state` are pairs of a variable and the value that it has here;
    no variable is changed. The values that variables have at its end, `keep` asks for.
    """

    def watched(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outputs = as_recorded(call, args, kwargs)
        entering = [a for a in tree.flatten((args, kwargs)) if ops.is_tensor(a)]
        look(call, entering, tree.flatten(outputs))
        return outputs

    with keras.StatelessScope(state, collect_losses=True) as scope:
        predictions = replay(graph, x, watched, training=True)
        value = loss(y, predictions)
    keep(scope)
    return value, predictions


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


def to_numpy(tensor: Any) -> np.ndarray:
    """Returns a tensor as an array that NumPy computes with; zeros for text."""
    array = ops.convert_to_numpy(tensor)
    if array.dtype.kind in "OSU":  # Text has no figures.
        return np.zeros(array.shape, "int32")
    # bfloat16 has no arithmetic in NumPy.
    return array.astype("float32") if array.dtype.kind not in "fiub" else array
