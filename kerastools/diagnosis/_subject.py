"""What a diagnosis was made of, so that a repair can be made and judged alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops, tree

from kerastools.diagnosis._probe.losses import Batch, LossOfOutputs
from kerastools.diagnosis._read_labels import Reading


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and how it is going to be trained.

    Attributes:
        model: The model.
        x: All rows of its inputs, in its structure.
        y: All rows of the targets, as the loss takes them.
        sample_weight: Weights of the rows, or `None`.
        loss: What training minimizes.
        batch_size: Rows of a batch.
        optimizer: The optimizer, or `None` where it is not known.
        readings: How targets or losses that did not fit each other were read.
        original: Targets and loss as they were before that.
    """

    model: Any
    x: Any
    y: Any
    sample_weight: Any
    loss: LossOfOutputs
    batch_size: int
    optimizer: Any
    readings: tuple[Reading, ...] = ()
    original: tuple[Any, Any] | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the data."""
        return len(tree.flatten(self.x)[0])

    def batch(self, rows: np.ndarray) -> tuple[Any, Batch]:
        """Returns the inputs of some rows, and what the loss takes of them."""

        def taken(a: Any) -> Any:
            return None if a is None else ops.convert_to_tensor(a[rows])

        x, y, weights = tree.map_structure(taken, (self.x, self.y, self.sample_weight))
        return x, (x, y, weights)
