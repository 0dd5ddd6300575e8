"""How a figure changes over the depth of a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Fewer layers have no slope worth the name.
FEWEST_LAYERS = 5


@dataclass(frozen=True)
class Trend:
    """A straight line through the logarithm of a figure over the layers.

    Attributes:
        slope: Median change per layer, in decades.
        decades: What it adds up to from the first layer to the last.
        num_layers: How many layers it was taken over.
    """

    slope: float
    decades: float
    num_layers: int

    def rises(self, slope: float, decades: float) -> bool:
        """Whether the figure grows by at least `slope` per layer and by `decades` in all."""
        return self.slope >= slope and self.decades >= decades

    def falls(self, slope: float, decades: float) -> bool:
        """Whether the figure shrinks by at least `slope` per layer and by `decades` in all."""
        return self.slope <= -slope and self.decades <= -decades


def trend(values: Sequence[float | None]) -> Trend:
    """Returns the trend of positive figures over depth; a flat one for too few or non-finite ones.

    The slope is the median over all pairs of layers (Theil and Sen), so that a single layer of
    another scale, such as an embedding or a first layer on unscaled inputs, does not make a trend.
    """
    figures = np.array([np.nan if v is None else v for v in values], "float64")
    if len(figures) < FEWEST_LAYERS or not np.isfinite(figures).all():
        return Trend(0.0, 0.0, len(figures))
    # A figure of zero underflowed: it counts as the smallest number that float32 can hold.
    logs = np.log10(np.maximum(figures, 1e-45))
    i, j = np.triu_indices(len(logs), 1)
    slope = float(np.median((logs[j] - logs[i]) / (j - i)))
    return Trend(slope, slope * (len(logs) - 1), len(logs))
