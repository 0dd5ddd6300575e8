"""One way to reuse a model, trained a while, set aside and trained on."""

from typing import Any

import keras
import numpy as np

from kerastools._core._batches import Batches
from kerastools._core._graph import Call
from kerastools.transfer._rebuilt import Rebuilt, values, variables

# Rows that are predicted at a time.
_BATCH = 256


class Contestant:
    """The source's layers up to a cut, frozen or tuned, under new ones; a state for each repeat.

    The layers above the cut are those of the source with weights drawn anew, and a new head in
    place of its own.

    Args:
        rebuilt: The layers and what of them has been compiled, for all contestants.
        cut: The last call that is reused, None for none.
        frozen: Whether the layers up to the cut stay as they are.
        x: What is trained on: the source's inputs, or its features at the cut where it is frozen.
    """

    def __init__(self, rebuilt: Rebuilt, cut: Call | None, frozen: bool, x: Any) -> None:
        self.upto = None if cut is None else cut.operation.name
        self.frozen = frozen
        self.accuracies: dict[int, list[float]] = {}  # By the epochs trained; one per repeat.
        self._rebuilt, self._cut, self._x = rebuilt, cut, x
        self._model = rebuilt.model(cut if frozen else None)
        self._states: dict[int, list[np.ndarray]] = {}
        self._epochs: dict[int, int] = {}

    def train(
        self, repeat: int, epochs: int, y: np.ndarray, train: np.ndarray, batch_size: int, seed: int
    ) -> int:
        """Trains one repeat up to `epochs` on the rows `train`; returns how many were made."""
        if repeat not in self._states:
            self._states[repeat] = self._rebuilt.first(self._model, self._cut, seed)
        self._put(repeat)
        rows = _take(self._x, train)

        def batch(parts: tuple[np.ndarray, ...], rng: Any) -> tuple[Any, Any]:
            return keras.tree.pack_sequence_as(rows, list(parts[:-1])), parts[-1]

        arrays = [*keras.tree.flatten(rows), y[train]]
        batches = Batches(arrays, min(batch_size, len(train)), seed, batch)
        done = self._epochs.get(repeat, 0)
        for epoch in range(done, epochs):
            batches.epoch = epoch
            for i in range(len(batches)):
                # `fit` would take longer to begin than these few steps take.
                self._model.train_on_batch(*batches[i])
        self._states[repeat] = values(variables(self._model))
        self._epochs[repeat] = epochs
        return epochs - done

    def accuracy(self, repeat: int, y: np.ndarray, rows: np.ndarray, x: Any = None) -> float:
        """Returns the share of `rows`, of `x` if it is other data, that one repeat gets right."""
        self._put(repeat)
        right = 0
        for i in range(0, len(rows), _BATCH):
            some = rows[i : i + _BATCH]
            inputs = _take(self._x if x is None else x, some)
            right += (self._model.predict_on_batch(inputs).argmax(-1) == y[some]).sum()
        return float(right / len(rows))

    def _put(self, repeat: int) -> None:
        self._rebuilt.put(self._model, self._states[repeat], (id(self), repeat))


def _take(x: Any, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda a: a[rows], x)
