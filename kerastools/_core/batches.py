"""Data in batches: what datasets yield, and batches that are a function of the seed alone."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import keras
import numpy as np

from kerastools._core.notices import notify

# What is taken of a dataset where a sample of its rows will do.
MOST_ROWS = 2**13
_MOST_BYTES = 2**28

Transform = Callable[[tuple[np.ndarray, ...], np.random.Generator], tuple[Any, ...]]


class Batches(keras.utils.PyDataset):
    """Rows in a new order each epoch, in whole batches, changed at random on their way.

    The same on every backend, without touching the global seed; and a run that is taken up again
    at epoch e sees what it would have seen. All batches are whole, so that nothing is compiled
    twice; the rows left over differ from epoch to epoch.

    Args:
        arrays: Arrays with equally many rows.
        batch_size: Rows per batch.
        seed: Integer that fixes order and changes.
        transform: Takes the rows of a batch, one array each, and a generator; returns what `fit`
            takes: `(x,)`, `(x, y)` or `(x, y, weights)`.
    """

    def __init__(
        self, arrays: Sequence[np.ndarray], batch_size: int, seed: int, transform: Transform
    ) -> None:
        super().__init__()
        self.arrays = tuple(arrays)
        self.batch_size = batch_size
        self.seed = seed
        self.transform = transform
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.arrays[0]) // self.batch_size

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.arrays[0]))
        rows = order[index * self.batch_size : (index + 1) * self.batch_size]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        return self.transform(tuple(array[rows] for array in self.arrays), rng)


def is_dataset(x: Any) -> bool:
    """Returns whether `x` yields batches, as `fit` takes them in place of arrays."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    is_array = hasattr(x, "__array__") or isinstance(x, list | tuple | dict | str)
    return hasattr(x, "__iter__") and not is_array


def raw_batches(dataset: Any) -> Iterator[Any]:
    """Yields the batches of a dataset as they come."""
    if isinstance(dataset, keras.utils.PyDataset):
        num = dataset.num_batches
        yield from (dataset[i] for i in (count() if num is None else range(num)))
    else:
        yield from dataset


def batches_of(dataset: Any) -> Iterator[tuple[Any, ...]]:
    """Yields the batches of a dataset as tuples of arrays: inputs, and targets and weights."""
    for batch in raw_batches(dataset):
        parts = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
        yield keras.tree.map_structure(keras.ops.convert_to_numpy, parts)


def require_end(dataset: Any, caller: str) -> None:
    """Raises if a dataset has no end, or may have none."""
    endless = getattr(dataset, "num_batches", 0) is None or (
        hasattr(dataset, "cardinality") and int(dataset.cardinality()) == -1
    )
    if endless or hasattr(dataset, "__next__"):
        raise ValueError(
            f"{caller} needs data that ends. Received "
            f"{'an endless dataset' if endless else 'a generator, which may go on for ever'}. Pass "
            "arrays, a PyDataset, or a tf.data.Dataset with take(num_batches)."
        )


def gather(dataset: Any, caller: str, most_rows: int | None = None) -> tuple[Any, Any, int]:
    """Returns the inputs and targets that a dataset yields, as arrays, and the rows of a batch.

    Args:
        dataset: See `is_dataset`. The targets are `None` if it yields inputs alone.
        caller: Named in messages.
        most_rows: How many rows will do, of data that are large or have no end.

    Raises:
        ValueError: If it is empty, its rows have several shapes, or all rows are needed of data
            that do not end.
    """
    if most_rows is None:
        require_end(dataset, caller)
    batches: list[tuple[Any, ...]] = []
    rows = size = 0
    for batch in batches_of(dataset):
        arrays = keras.tree.flatten(batch)
        batches.append(batch)
        rows += len(arrays[0])
        size += sum(a.nbytes for a in arrays)
        if most_rows is not None and (rows >= most_rows or size >= _MOST_BYTES):
            notify(f"{caller} takes the first {rows} rows of the dataset.", stacklevel=4)
            break
    if not rows:
        raise ValueError(f"{caller} needs at least one row. Received an empty dataset.")
    shapes = {tuple(a.shape[1:] for a in keras.tree.flatten(batch)) for batch in batches}
    if len(shapes) > 1:
        raise ValueError(
            f"{caller} needs rows of one shape. Received batches of rows of shapes "
            f"{sorted(shapes)[:2]}. Pad them to one length, or pass some batches as arrays."
        )
    joined = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    y = joined[1] if len(joined) > 1 else None
    return joined[0], y, len(keras.tree.flatten(batches[0])[0])
