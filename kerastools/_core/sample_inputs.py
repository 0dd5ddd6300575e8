"""A few rows to try a model with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Graph, has_graph

_NUM_ROWS = 3
# Tried in turn for sizes that the model leaves open, such as those of an image.
_OPEN_SIZES = (32, 64, 128, 256, 512, 1024, 1)
# Values of one input; several open sizes grow fast together.
_LARGEST = 2**26


class NoSampleError(ValueError):
    """No random inputs were found on which the model works."""


def sample_inputs(graph: Graph, sample: Any, caller: str) -> Any:
    """Returns `sample` as tensors as the model takes them, or random ones if it is `None`."""
    with state_kept(graph.model):
        return find_sample(
            lambda inputs: graph.model(inputs, training=False),
            graph.input_structure,
            sample,
            caller,
            graph,
        )[0]


def find_sample(
    call: Callable[[Any], Any], specs: Any, sample: Any, caller: str, graph: Graph | None = None
) -> tuple[Any, Any]:
    """Returns inputs on which `call` works, as tensors, and what it returns for them.

    Without `sample` they are random: normal numbers with the mean and variance that a normalization
    at the input of `graph` carries (else 0 and 1), or numbers between 0 and 1 where those give NaN;
    0 and 1 for integers (0 to 255 for uint8), the letter a for text. For sizes that the model
    leaves open, 32, 64 and so on to 1024 are tried, then 1.

    Args:
        call: Takes inputs of the structure of `specs`.
        specs: What has a shape and a dtype for each input.
        sample: The inputs to use, or `None`.
        caller: Named in messages of errors.
        graph: The model's, if it has one.

    Raises:
        ValueError: If `sample` does not fit, or the model returns NaN on it.
        NoSampleError: If no random inputs were found on which it works.
    """
    flat = keras.tree.flatten(specs)
    if sample is not None:
        inputs = _tensors(_checked(flat, specs, sample, caller), flat, specs)
        outputs = call(inputs)
        if not _is_finite(outputs):
            raise ValueError(
                f"{caller} compares outputs, but the model returns NaN or infinity on the rows of "
                "sample. Pass others; if they give NaN too, the model's weights are broken."
            )
        return inputs, outputs
    statistics = [None] * len(flat) if graph is None else [_mean_std(graph, t) for t in flat]
    failures = []
    for arrays in _candidates(flat, statistics):
        inputs = _tensors(arrays, flat, specs)
        try:
            outputs = call(inputs)
        except Exception as error:  # Whatever the model raises where an input does not suit it.
            failures.append(f"fails: {first_line(error)}")
            continue
        if _is_finite(outputs):
            return inputs, outputs
        failures.append("returns NaN or infinity (or its weights are broken)")
    raise NoSampleError(
        f"{caller} needs sample=, a few rows of real data: on the random inputs that it tried, the "
        f"model {failures[0] if failures else 'would take too much memory'}"
    )


@contextmanager
def state_kept(model: Any) -> Iterator[None]:
    """Gives the variables that a call in inference may change the values that they had."""
    before = [(v, keras.ops.copy(v.value)) for v in model.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def first_line(error: BaseException) -> str:
    """Returns the message of an error, cut to one short line; its class if it has none."""
    text = " ".join(str(error).split()) or repr(error)
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _is_finite(outputs: Any) -> bool:
    arrays = [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs)]
    return all(np.isfinite(y).all() for y in arrays if y.dtype.kind == "f")


def _tensors(arrays: list[np.ndarray], flat: list[Any], specs: Any) -> Any:
    pairs = zip(arrays, flat, strict=True)
    tensors = [keras.ops.convert_to_tensor(x, _dtype(spec)) for x, spec in pairs]
    return keras.tree.pack_sequence_as(specs, tensors)


def _checked(flat: list[Any], specs: Any, sample: Any, caller: str) -> list[np.ndarray]:
    try:
        keras.tree.assert_same_structure(sample, specs)
        arrays = [np.asarray(x) for x in keras.tree.flatten(sample)]
        for x, t in zip(arrays, flat, strict=True):
            fits = len(x.shape) == len(t.shape) and all(
                want in (None, have) for have, want in zip(x.shape, t.shape, strict=True)
            )
            if not fits or x.shape[0] == 0:
                raise ValueError(f"{t.name} of shape {x.shape} in place of {tuple(t.shape)}")
    except ValueError as error:
        raise ValueError(
            f"{caller} needs sample to be inputs as the model takes them, with at least one "
            f"row. Received {error}."
        ) from error
    return arrays


def _candidates(flat: list[Any], statistics: list[Any]) -> Iterator[list[np.ndarray]]:
    sizes = _OPEN_SIZES if any(None in tuple(t.shape[1:]) for t in flat) else (1,)
    # The logarithm or the square root of a normal number may be NaN.
    kinds = (False, True) if any("float" in _dtype(t) for t in flat) else (False,)
    for size in sizes:
        shapes = [(t.shape[0] or _NUM_ROWS, *(s or size for s in t.shape[1:])) for t in flat]
        if all(np.prod(shape, dtype=float) <= _LARGEST for shape in shapes):
            for positive in kinds:
                rng = np.random.default_rng(0)
                triples = zip(flat, shapes, statistics, strict=True)
                yield [_random(_dtype(t), shape, s, positive, rng) for t, shape, s in triples]


def _random(
    dtype: str, shape: tuple[int, ...], statistics: Any, positive: bool, rng: np.random.Generator
) -> np.ndarray:
    if dtype == "string":
        return np.full(shape, "a")
    if "float" in dtype and positive:
        return rng.uniform(size=shape)
    if "float" in dtype:
        mean, std = statistics or (0.0, 1.0)
        return mean + std * rng.normal(size=shape)
    # 0 and 1 are valid indices of nearly every embedding.
    return rng.integers(0, 256 if dtype == "uint8" else 2, shape)


def _dtype(spec: Any) -> str:
    return keras.backend.standardize_dtype(spec.dtype)


def _mean_std(graph: Graph, tensor: Any) -> tuple[Any, Any] | None:
    """Returns the mean and standard deviation that the layers after `tensor` expect of it."""
    for call in graph.consumers(tensor):
        found = _expected(graph, call, tensor)
        if found is not None:
            return found
    return None


def _expected(graph: Graph, call: Any, tensor: Any) -> tuple[Any, Any] | None:
    """The same of one layer; by its attributes, which are those of Keras's layers."""
    layer = call.operation
    if has_graph(layer):
        inner = Graph(layer)
        place = [id(t) for t in call.inputs].index(id(tensor))
        return _mean_std(inner, inner.inputs[place])
    if hasattr(layer, "moving_variance"):  # BatchNormalization
        shape = [1] * len(tensor.shape)
        shape[layer.axis] = -1
        mean, variance = (_array(v) for v in (layer.moving_mean, layer.moving_variance))
        return mean.reshape(shape), np.sqrt(variance.reshape(shape))
    if getattr(layer, "variance", None) is not None and not layer.invert:  # Normalization
        return _array(layer.mean), np.sqrt(_array(layer.variance))
    if hasattr(layer, "scale") and hasattr(layer, "offset"):  # Rescaling
        after = _mean_std(graph, call.outputs[0]) or (0.0, 1.0)
        scale = np.asarray(layer.scale, "float64")
        if (scale == 0).any():
            return None
        return (after[0] - np.asarray(layer.offset, "float64")) / scale, after[1] / np.abs(scale)
    return None


def _array(value: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(value).astype("float64")
