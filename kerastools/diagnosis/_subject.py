"""What a diagnosis was made of, so that a repair can be made and judged alike."""

from dataclasses import dataclass
from typing import Any

from keras import tree

from kerastools._core._losses import LossOfOutputs


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and how it is going to be trained.

    Attributes:
        model: The model.
        x: All rows of its inputs, in its structure.
        y: All rows of the targets.
        loss: The loss of all outputs.
        batch_size: Rows of a batch.
        optimizer: The optimizer, or `None` where it is not known.
    """

    model: Any
    x: Any
    y: Any
    loss: LossOfOutputs
    batch_size: int
    optimizer: Any

    @property
    def num_rows(self) -> int:
        """Rows of the data."""
        return len(tree.flatten(self.x)[0])
