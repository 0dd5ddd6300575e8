"""Batches that are a function of the seed, the epoch and the position, and of nothing else."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

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
