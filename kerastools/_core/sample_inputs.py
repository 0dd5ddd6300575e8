"""A few rows to try a model with."""

from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Graph

_NUM_ROWS = 3
# For sizes that the model leaves open, such as those of an image.
_OPEN_SIZE = 32


def sample_inputs(graph: Graph, sample: Any, caller: str) -> Any:
    """Returns `sample` as tensors as the model takes them, or random ones if it is `None`.

    Random are normal numbers, 0 and 1 for integers (0 to 255 for uint8), and the letter a for text.
    """
    if sample is None:
        rng = np.random.default_rng(0)
        arrays = [_random(t, rng) for t in graph.inputs]
    else:
        arrays = _checked(graph, sample, caller)
    tensors = [
        keras.ops.convert_to_tensor(x, t.dtype) for x, t in zip(arrays, graph.inputs, strict=True)
    ]
    return keras.tree.pack_sequence_as(graph.input_structure, tensors)


def _checked(graph: Graph, sample: Any, caller: str) -> list[np.ndarray]:
    try:
        keras.tree.assert_same_structure(sample, graph.input_structure)
        arrays = [np.asarray(x) for x in keras.tree.flatten(sample)]
        for x, t in zip(arrays, graph.inputs, strict=True):
            fits = len(x.shape) == len(t.shape) and all(
                want in (None, have) for have, want in zip(x.shape, t.shape, strict=True)
            )
            if not fits or x.shape[0] == 0:
                raise ValueError(f"{t.name} of shape {x.shape} in place of {t.shape}")
    except ValueError as error:
        raise ValueError(
            f"{caller} needs sample to be inputs as the model takes them, with at least one "
            f"row. Received {error}."
        ) from error
    return arrays


def _random(tensor: Any, rng: np.random.Generator) -> np.ndarray:
    rows, *sizes = tensor.shape
    shape = (rows or _NUM_ROWS, *(size or _OPEN_SIZE for size in sizes))
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype == "string":
        return np.full(shape, "a")
    if "float" in dtype:
        return rng.normal(size=shape)
    # 0 and 1 are valid indices of nearly every embedding.
    return rng.integers(0, 256 if dtype == "uint8" else 2, shape)
