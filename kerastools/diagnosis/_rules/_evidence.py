"""What a rule may look at, and the limits of a slope that several rules share."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kerastools.diagnosis._layer_signal import LayerSignal

# A change per layer, in decades, that is no chance: ReLU with Glorot weights loses 0.301 of the
# second moment, while sound nets of 50 narrow layers wander by less than 0.1.
SLOPE = 0.15
# The change from the first layer to the last that it must add up to: a shallow net bears a slope.
DECADES = 2.0


@dataclass(frozen=True)
class Evidence:
    """What was measured on one batch, and how the model is going to be trained.

    Attributes:
        model: The model, as it was passed.
        loss: The loss of the batch.
        signals: The figures of each layer.
        num_rows: Rows of the whole data.
        batch_size: Rows of one batch in training.
    """

    model: Any
    loss: float
    signals: tuple[LayerSignal, ...]
    num_rows: int
    batch_size: int

    def hidden(self) -> list[LayerSignal]:
        """Returns the layers with kernels up to the first that is not finite, outputs excepted.

        The output's scale is the loss's business: a softmax over many classes is small by nature.
        """
        hidden = []
        for signal in self.signals:
            if not np.isfinite(signal.second_moment):
                break
            if signal.has_kernel and not signal.is_output:
                hidden.append(signal)
        return hidden
