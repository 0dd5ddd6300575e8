"""The rows that `diagnose` looks at, whatever `fit` takes them from."""

from typing import Any

import keras
import numpy as np
from keras import tree

from kerastools._core.batches import raw_batches
from kerastools._core.checks import require_finite

# Rows and bytes of a dataset that are read at most.
_MOST_ROWS, _MOST_BYTES = 4096, 2**28


def read_data(
    x: Any, y: Any, sample_weight: Any, batch_size: int, caller: str
) -> tuple[Any, Any, Any, int]:
    """Returns inputs, targets and sample weights as arrays, and the batch size.

    Of a `tf.data.Dataset`, a `PyDataset` or another iterable of batches the first rows are read, in
    whole batches, which set the batch size.
    """
    if not _is_dataset(x):
        x, y, sample_weight = (
            tree.map_structure(
                lambda a, n=name: None if a is None else require_finite(n, a, caller), part
            )
            for name, part in (("x", x), ("y", y), ("sample_weight", sample_weight))
        )
        _check_rows(x, y)
        return x, y, sample_weight, batch_size
    parts: list[Any] = []
    shapes, rows, size = None, 0, 0
    for batch in raw_batches(x):
        arrays = tree.map_structure(_array, keras.utils.unpack_x_y_sample_weight(batch))
        flat = [a for a in tree.flatten(arrays) if a is not None]
        # Batches that were padded to another length cannot be joined.
        if shapes is not None and [a.shape[1:] for a in flat] != shapes:
            continue
        shapes = [a.shape[1:] for a in flat]
        parts.append(arrays)
        rows += len(flat[0])
        size += sum(a.nbytes for a in flat)
        if rows >= _MOST_ROWS or size >= _MOST_BYTES:
            # Whether the last batch is smaller is not known.
            rows_of_batch = len(tree.flatten(parts[0])[0])
            parts = [p for p in parts if len(tree.flatten(p)[0]) == rows_of_batch]
            break
    if not parts:
        raise ValueError(f"{caller} needs a batch. Received an empty {type(x).__name__}.")
    x, y, sample_weight = tree.map_structure(
        lambda *a: None if a[0] is None else np.concatenate(a), *parts
    )
    return *read_data(x, y, sample_weight, batch_size, caller)[:3], len(tree.flatten(parts[0])[0])


def _is_dataset(x: Any) -> bool:
    arrays = hasattr(x, "__array__") or isinstance(x, list | tuple | dict | str)
    return not arrays and (hasattr(x, "__iter__") or hasattr(x, "__getitem__"))


def _array(value: Any) -> Any:
    if value is None:
        return None
    if hasattr(value, "to_tensor"):  # A ragged tensor.
        value = value.to_tensor()
    return np.asarray(value)


def _check_rows(x: Any, y: Any) -> None:
    """Raises unless the number of rows is the same everywhere."""
    counts = {
        name: [len(a) for a in tree.flatten(part) if a is not None]
        for name, part in (("x", x), ("y", y))
    }
    if len({*counts["x"], *counts["y"]}) != 1:
        raise ValueError(
            f"diagnose needs as many rows of x as of y. Received {counts['x']} rows of x and "
            f"{counts['y']} rows of y."
        )
