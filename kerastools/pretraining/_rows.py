"""Checks of the data that pretraining learns from."""

from typing import Any

import keras
import numpy as np

from kerastools._core.checks import require_finite, require_graph


def check_encoder(encoder: Any, caller: str) -> None:
    """Raises unless `encoder` is a built graph with one input, one output and trainable weights."""
    require_graph(encoder, caller)
    if len(encoder.inputs) != 1 or len(encoder.outputs) != 1:
        raise ValueError(
            f'{caller} needs an encoder with one input and one output. Received model "'
            f'{encoder.name}" with {len(encoder.inputs)} inputs and {len(encoder.outputs)} outputs'
            ". Pass the part keras.Model(one_input, one_output)."
        )
    if not encoder.trainable_weights:
        raise ValueError(
            f'{caller} needs an encoder that can learn. Received model "{encoder.name}" without '
            "trainable weights. Add a layer such as keras.layers.Dense, or set "
            "encoder.trainable = True."
        )


def check_rows(x: Any, shape: tuple[int | None, ...], batch_size: int, caller: str) -> np.ndarray:
    """Returns `x` as float32, or raises unless it is enough unlabelled rows of `shape`."""
    if isinstance(x, tuple):
        raise ValueError(
            f"{caller} learns without labels. Received a tuple of {len(x)}, which looks like "
            "(x, y). Pass x alone."
        )
    array = require_finite("x", x, caller)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ValueError(f"{caller} needs numbers. Received x of dtype {array.dtype}.")
    fits = array.ndim == len(shape) + 1 and all(
        want in (None, got) for want, got in zip(shape, array.shape[1:], strict=True)
    )
    if not fits:
        labels = " These look like labels; pass the inputs instead." if array.ndim == 1 else ""
        raise ValueError(
            f"{caller} needs x of shape {(None, *shape)}, as the model takes it. Received x of "
            f"shape {array.shape}.{labels}"
        )
    check_batch_size(len(array), batch_size, caller)
    return array.astype("float32")


def check_batch_size(rows: int, batch_size: int, caller: str) -> None:
    """Raises unless there is at least one whole batch."""
    if not 1 <= batch_size <= rows:
        raise ValueError(
            f"{caller} needs a batch_size from 1 to the number of rows, {rows}. Received "
            f"batch_size={batch_size}."
        )


def fresh_optimizer(optimizer: Any, learning_rate: float) -> Any:
    """Returns a new optimizer like `optimizer`, or Adam with `learning_rate` where it is `None`."""
    if optimizer is None:
        return keras.optimizers.Adam(learning_rate)
    optimizer = keras.optimizers.get(optimizer)
    return type(optimizer).from_config(optimizer.get_config())
