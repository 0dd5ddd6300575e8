"""What a model computes and what its SavedModel computes, side by side."""

from typing import Any

import keras
import numpy as np


def predictions(model: Any, inputs: Any, caller: str) -> list[np.ndarray]:
    """Returns the outputs as `predict` computes them, or raises if they are not finite."""
    import tensorflow as tf

    # Compiled: layers that resize uint8 images round to integers eagerly, but not in a graph.
    outputs = tf.function(lambda x: model(x, training=False), autograph=False)(inputs)
    arrays = [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs)]
    if not all(np.isfinite(y).all() for y in arrays if np.issubdtype(y.dtype, np.floating)):
        raise ValueError(
            f'{caller} compares outputs, but model "{model.name}" returns NaN or infinity on the '
            "inputs of the comparison. Pass sample=, some rows of real data; if they give NaN too, "
            "the model's weights are broken."
        )
    return arrays


def largest_difference(
    model: str, got: dict[str, np.ndarray], want: dict[str, np.ndarray], tolerance: float
) -> float:
    """Returns the difference of the worst output, or raises if it is beyond `tolerance`."""
    differences = {name: _difference(got[name], want[name]) for name in want}
    worst = max(differences, key=lambda name: differences[name])
    # A NaN compares as neither larger nor smaller.
    if not differences[worst] <= tolerance:
        raise ValueError(
            f'export_savedmodel loaded the SavedModel of "{model}" again, and its output '
            f'"{worst}" differs from the model\'s by {differences[worst]:.2g} of the largest '
            f"value; allowed is {tolerance:.2g}. Nothing was written. Find the cause with "
            "dtype=None, then fold=False, then freeze=False, compare on real data with sample=, or "
            "pass a larger tolerance if the model amplifies rounding errors."
        )
    return differences[worst]


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    """Returns max |got − want| / max |want|; infinite where the values cannot be subtracted."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return np.inf
    if got.dtype.kind in "OSUb":
        return 0.0 if np.array_equal(got, want) else np.inf
    got, want = got.astype("float64"), want.astype("float64")
    return float(np.max(np.abs(got - want)) / max(np.max(np.abs(want)), np.finfo("float32").tiny))
