"""Names of a model's inputs and outputs, and values to try it with."""

import itertools
import re
from typing import Any

import keras
import numpy as np

from kerastools._core._graph import Graph


def input_names(graph: Graph) -> list[str]:
    """Returns what the inputs are called, spelled as identifiers."""
    names = _names(graph.input_structure, graph.input_layers)
    # TensorFlow takes the arguments of a signature by keyword, and no tensor's name may begin
    # with an underscore.
    return _unique([re.sub(r"\W", "_", re.sub(r"^(?=[\d_])", "x", n), flags=re.A) for n in names])


def output_names(graph: Graph) -> list[str]:
    """Returns what the outputs are called: keys of the dictionary, or the layers' names."""
    return _unique(_names(graph.output_structure, graph.output_layers))


def sample_inputs(graph: Graph, sample: Any, caller: str) -> Any:
    """Returns the inputs of the comparison, as the model takes them."""
    if sample is not None:
        try:
            keras.tree.assert_same_structure(sample, graph.input_structure)
            for x, t in zip(keras.tree.flatten(sample), graph.inputs, strict=True):
                shape = np.shape(x)
                fits = len(shape) == len(t.shape) and all(
                    want in (None, have) for have, want in zip(shape, t.shape, strict=True)
                )
                if not fits or shape[0] == 0:
                    raise ValueError(f"{t.name} of shape {shape} in place of {t.shape}")
        except ValueError as error:
            raise ValueError(
                f"{caller} needs sample to be inputs as the model takes them, with at least one "
                f"row. Received {error}."
            ) from error
        arrays = [np.asarray(x) for x in keras.tree.flatten(sample)]
    else:
        rng = np.random.default_rng(0)
        arrays = [_random_input(t, rng) for t in graph.inputs]
    import tensorflow as tf

    tensors = [tf.constant(x, t.dtype) for x, t in zip(arrays, graph.inputs, strict=True)]
    return keras.tree.pack_sequence_as(graph.input_structure, tensors)


def _names(structure: Any, layers: list[Any]) -> list[str]:
    """Returns a name for each tensor: its key in a flat dictionary, else that of its layer."""
    if isinstance(structure, dict) and not any(map(keras.tree.is_nested, structure.values())):
        return [str(key) for (key,), _ in keras.tree.flatten_with_path(structure)]
    return [layer.name for layer in layers]


def _unique(names: list[str]) -> list[str]:
    """Returns `names` with `_1`, `_2` and so on added where a name comes again."""
    result: list[str] = []
    for name in names:
        free = (f"{name}_{i}" if i else name for i in itertools.count())
        result.append(next(candidate for candidate in free if candidate not in result))
    return result


def _random_input(tensor: Any, rng: np.random.Generator) -> np.ndarray:
    rows, *sizes = tensor.shape
    shape = (rows or 3, *(size or 32 for size in sizes))
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype == "string":
        return np.full(shape, "a")
    if "float" in dtype:
        return rng.normal(size=shape)
    # 0 and 1 are valid indices of nearly every embedding.
    return rng.integers(0, 256 if dtype == "uint8" else 2, shape)
