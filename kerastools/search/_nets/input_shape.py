"""A `Sequential` without `keras.Input`, built for the data before `fit` would do it."""

from typing import Any

import keras
import numpy as np


def input_shape_of(x: Any) -> tuple[int | None, ...] | None:
    """Returns the shape of batches of `x`; `None` unless it is an array of numbers."""
    if isinstance(x, np.ndarray) and x.ndim > 1 and x.dtype.kind in "biuf":
        return (None, *x.shape[1:])
    return None


def with_input(model: Any, shape: tuple[int | None, ...] | None) -> Any:
    """Returns `model`, built for batches of `shape` if it is a `Sequential` that has no input.

    Its weights are those that `fit` would have drawn: Keras's initializers and dropout layers are
    seeded when they are made, not when they are built.
    """
    if shape is not None and isinstance(model, keras.Sequential) and not model.built:
        model.build(shape)
    return model
