"""One way to reuse a model, trained a while, set aside and trained on."""

from collections.abc import Collection
from typing import Any, NamedTuple

import keras
import numpy as np

from kerastools._core.batches import Batches
from kerastools._core.graph.calls import Call
from kerastools.transfer._rebuilt import Rebuilt, values, variables

# Rows that are predicted at a time.
_BATCH = 256


class Mark(NamedTuple):
    """How a network does on some rows."""

    accuracy: float
    loss: float  # The mean of −log of the probability of the right class, in nats.


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
        self.epochs: dict[int, int] = {}  # That were trained, by repeat.
        self.marks: dict[int, dict[int, Mark]] = {}  # By the epochs trained and by repeat.
        self._rebuilt, self._cut, self._x = rebuilt, cut, x
        self._model = rebuilt.model(cut if frozen else None)
        self._states: dict[int, list[np.ndarray]] = {}

    def train(
        self,
        repeat: int,
        epochs: int,
        y: np.ndarray,
        train: np.ndarray,
        batch_size: int,
        seed: int,
        held_out: np.ndarray | None = None,
        at: Collection[int] = (),
    ) -> None:
        """Trains one repeat up to `epochs` on the rows `train`.

        After the epochs `at` its mark on the rows `held_out` is added to `marks`.
        """
        if repeat not in self._states:
            self._states[repeat] = self._rebuilt.first(self._model, self._cut, seed)
        self._put(repeat)
        rows = _take(self._x, train)

        def batch(parts: tuple[np.ndarray, ...], rng: Any) -> tuple[Any, Any]:
            return keras.tree.pack_sequence_as(rows, list(parts[:-1])), parts[-1]

        arrays = [*keras.tree.flatten(rows), y[train]]
        batches = Batches(arrays, min(batch_size, len(train)), seed, batch)
        for epoch in range(self.epochs.get(repeat, 0), epochs):
            batches.epoch = epoch
            for i in range(len(batches)):
                # `fit` would take longer to begin than these few steps take.
                self._model.train_on_batch(*batches[i])
            if held_out is not None and epoch + 1 in at:
                self.marks.setdefault(epoch + 1, {})[repeat] = self._mark(self._x, y, held_out)
        self._states[repeat] = values(variables(self._model))
        self.epochs[repeat] = epochs

    def mark(self, repeat: int, y: np.ndarray, rows: np.ndarray, x: Any = None) -> Mark:
        """Returns how one repeat does on `rows`, of `x` if it is other data."""
        self._put(repeat)
        return self._mark(self._x if x is None else x, y, rows)

    def _mark(self, x: Any, y: np.ndarray, rows: np.ndarray) -> Mark:
        right, loss = 0, 0.0
        for i in range(0, len(rows), _BATCH):
            some = rows[i : i + _BATCH]
            logits = self._model.predict_on_batch(_take(x, some)).astype("float64")
            right += (logits.argmax(-1) == y[some]).sum()
            logits -= logits.max(-1, keepdims=True)
            own = logits[np.arange(len(some)), y[some]]
            loss += (np.log(np.exp(logits).sum(-1)) - own).sum()
        return Mark(float(right / len(rows)), float(loss / len(rows)))

    def _put(self, repeat: int) -> None:
        self._rebuilt.put(self._model, self._states[repeat], (id(self), repeat))


def _take(x: Any, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda a: a[rows], x)
