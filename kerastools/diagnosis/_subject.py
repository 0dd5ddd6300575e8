"""What a diagnosis was made of, so that a repair can be made and judged alike."""

from dataclasses import dataclass
from typing import Any

from keras import tree

from kerastools.diagnosis._probe.losses import LossOfOutputs
from kerastools.diagnosis._read_labels import Reading


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and how it is going to be trained.

    Attributes:
        model: The model.
        x: All rows of its inputs, in its structure.
        y: All rows of the targets, as the loss takes them.
        loss: The loss of all outputs.
        batch_size: Rows of a batch.
        optimizer: The optimizer, or `None` where it is not known.
        readings: How targets or losses that did not fit each other were read.
    """

    model: Any
    x: Any
    y: Any
    loss: LossOfOutputs
    batch_size: int
    optimizer: Any
    readings: tuple[Reading, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows of the data."""
        return len(tree.flatten(self.x)[0])
