"""What a model computes and what was made of it computes, side by side."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Graph, has_graph, sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.patched import patched
from kerastools._core.sample_inputs import state_kept

Arrays = dict[str, np.ndarray]


def compiled(model: Any) -> Callable[[list[Any]], Any]:
    """Returns `model` in inference as `predict` computes it, as a function of its arguments.

    A call leaves the state of the model as it was.
    """
    if keras.backend.backend() != "tensorflow":

        def eager(arguments: list[Any]) -> Any:
            with state_kept(model):
                return model(*arguments, training=False)

        return eager
    import tensorflow as tf

    # Layers that resize uint8 images round to integers eagerly, but not in a graph.
    function = tf.function(lambda arguments: model(*arguments, training=False), autograph=False)

    def call(arguments: list[Any]) -> Any:
        # Called itself, it would warn of the many functions of this one line that are traced.
        graph = function.get_concrete_function(arguments)
        # Also what is none of the model's variables, as the states of a recurrent layer.
        before = [(variable, tf.identity(variable)) for variable in graph.variables]
        try:
            return graph(arguments)
        finally:
            for variable, value in before:
                variable.assign(value)

    return call


@contextmanager
def without_last_activations(model: Any) -> Iterator[bool]:
    """Lets a model return what its last activations take, and yields whether it has any.

    A softmax that returns 1 returns that for very different inputs.
    """
    found = [op for op in _last_operations(model) if _has_activation(op)]
    with ExitStack() as stack:
        for operation in found:
            if is_kind(operation, "activation"):
                stack.enter_context(patched(operation, call=lambda call, x, *args, **kwargs: x))
            else:
                stack.callback(vars(operation).update, activation=operation.activation)
                vars(operation)["activation"] = keras.activations.linear
        yield bool(found)


def _last_operations(model: Any) -> list[Any]:
    """Returns the operations that make the outputs of a model, those of nested models inside."""
    if not has_graph(model):
        return []
    unique = {id(op): op for op in Graph(model).output_layers}
    return [
        last for op in unique.values() for last in (_last_operations(op) if has_graph(op) else [op])
    ]


def _has_activation(operation: Any) -> bool:
    activation = vars(operation).get("activation")
    own = callable(activation) and activation is not keras.activations.linear
    return own or is_kind(operation, "activation")


def as_arrays(named: dict[str, Any]) -> Arrays:
    """Returns tensors as arrays."""
    return {name: keras.ops.convert_to_numpy(y) for name, y in named.items()}


def default_tolerance(model: Any) -> float:
    """Returns the largest difference that rounding explains, relative to the largest output."""
    half = {"float16", "bfloat16"} & {layer.compute_dtype for layer in sublayers(model)}
    return 0.1 if half else 5e-3


def largest_difference(
    got: Arrays, want: Arrays, tolerance: float, again: Callable[[], Arrays]
) -> tuple[float, list[str]]:
    """Returns the difference of the worst output, and which outputs could not be compared.

    Args:
        got: The outputs of what was made of the model, by name.
        want: Those of the model.
        tolerance: The largest difference allowed, relative to the largest value of the output.
        again: Calls the model on the same inputs in the same state once more. What it then returns
            otherwise is random, and equal to nothing.

    Raises:
        ValueError: If another output is beyond `tolerance`.
    """
    differences = {name: difference(got[name], want[name]) for name in want}
    # A NaN compares as neither larger nor smaller.
    wrong = [name for name in want if not differences[name] <= tolerance]
    repeated = again() if wrong else {}
    random = [n for n in wrong if not difference(repeated[n], want[n]) <= tolerance / 10]
    for name in wrong:
        if name not in random:
            raise ValueError(
                f'its output "{name}" differs from the model\'s by {differences[name]:.2g} of '
                f"the largest value; allowed is {tolerance:.2g}"
            )
    return max((d for name, d in differences.items() if name not in random), default=0.0), random


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """Returns max |got − want| / max |want|; infinite where the values cannot be subtracted."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return np.inf
    if got.dtype.kind in "OSUb" or got.size == 0:
        return 0.0 if np.array_equal(got, want) else np.inf
    got, want = got.astype("float64"), want.astype("float64")
    return float(np.max(np.abs(got - want)) / max(np.max(np.abs(want)), np.finfo("float32").tiny))
