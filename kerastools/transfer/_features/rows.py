"""Input pipelines of cached features: rows from a dataset, batches from a file."""

import math
from itertools import islice
from typing import Any

import keras
import numpy as np

from kerastools._core.batches import batches_of
from kerastools.transfer._refusal import CannotCacheError

# Batches that are compared to detect a dataset in another order each time.
_COMPARED = 2


class FeatureRows(keras.utils.PyDataset):
    """PyDataset of features in a file, shuffled each epoch by Keras's global seed.

    Args:
        features: An array, which may be a memory-mapped file.
        y: Targets, an array or a structure of arrays.
        arguments: Arguments of `fit`, of which `batch_size`, `shuffle` and `sample_weight` are used
            here.
    """

    def __init__(self, features: np.ndarray, y: Any, arguments: dict[str, Any]) -> None:
        super().__init__()
        own = ("batch_size", "shuffle", "sample_weight")
        self._left = {name: value for name, value in arguments.items() if name not in own}
        self.batch_size = arguments.get("batch_size") or 32
        self.shuffled = arguments.get("shuffle", True)
        self.features = features
        targets = (y, arguments.get("sample_weight"))
        self.targets = tuple(t for t in targets if t is not None)
        self.order = np.arange(len(features))
        self._shuffle()

    def left_for_fit(self) -> dict[str, Any]:
        """Returns the other arguments of `fit`, with `shuffle=False` for batches."""
        return self._left | {"shuffle": False}

    def __len__(self) -> int:
        return math.ceil(len(self.features) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        targets = keras.tree.map_structure(lambda a: np.asarray(a)[rows], self.targets)
        return (self.features[rows], *targets)

    def on_epoch_end(self) -> None:
        """Shuffles the rows for the next epoch."""
        self._shuffle()

    def _shuffle(self) -> None:
        if self.shuffled:
            np.random.shuffle(self.order)


def gather(dataset: Any, arguments: dict[str, Any], caller: str) -> tuple[Any, Any, dict[str, Any]]:
    """Returns the rows of a dataset as arrays, and the arguments of `fit` for them.

    Raises:
        CannotCacheError: If it yields another order each time, batches of several sizes, or an
            epoch is not all of it.
    """
    endless = hasattr(dataset, "cardinality") and int(dataset.cardinality()) == -1
    if endless or arguments.get("steps_per_epoch"):
        raise CannotCacheError(
            f"{caller} needs a dataset that ends, and epochs that are all of it. Received "
            f"{'an endless one' if endless else 'steps_per_epoch'}. Pass it without repeat() and "
            "steps_per_epoch."
        )
    first, again = (list(islice(batches_of(dataset), _COMPARED)) for _ in range(2))
    flat = [keras.tree.flatten(batches) for batches in (first, again)]
    if not all(np.array_equal(a, b) for a, b in zip(*flat, strict=True)):
        raise CannotCacheError(
            f"{caller} needs a dataset that yields the same rows in the same order each time. "
            "Received one whose first batches differ between two passes: it shuffles or augments "
            "at random. Pass it without shuffle() and random map(). fit(..., shuffle=True) "
            "shuffles the features."
        )
    batches = list(batches_of(dataset))
    sizes = [len(keras.tree.flatten(batch)[0]) for batch in batches]
    if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:
        raise CannotCacheError(
            f"{caller} needs batches of one size, but for the last. Received {sorted(set(sizes))}."
        )
    rows = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    arguments = {"shuffle": False, **arguments, "batch_size": sizes[0]}
    if len(rows) > 2:
        arguments["sample_weight"] = rows[2]
    return rows[0], rows[1] if len(rows) > 1 else None, arguments
