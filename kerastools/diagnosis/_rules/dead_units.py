"""Rule: rectified units that are zero for every row, and so never get a gradient."""

import math

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._layer_signal import LayerSignal
from kerastools.diagnosis._rules.evidence import Evidence

_LARGEST = 0.7


def dead_units(evidence: Evidence) -> list[Finding]:
    """Far more units of a layer are dead than chance explains."""
    layers = [s for s in evidence.signals if s.dead is not None]
    guilty = [s for s in layers if s.dead is not None and s.dead > _limit(s)]
    if not guilty:
        return []
    worst = max(guilty, key=lambda s: s.dead or 0.0)
    return [
        Finding(
            rule="dead units",
            layer=worst.layer,
            value=worst.dead or 0.0,
            threshold=_limit(worst),
            evidence=f"{worst.dead:.0%} of the {worst.units} units of {worst.layer} are zero for "
            f"every row, so no gradient reaches them; so it is in {len(guilty)} of {len(layers)} "
            "rectified layers.",
            fix="kerastools.calibration.initialize(model), a smaller learning rate, or "
            "keras.layers.LeakyReLU() in place of ReLU.",
            layers=tuple(s.layer for s in guilty),
            source="Lu et al. 2019, Dying ReLU and initialization; half of the units of deep sound "
            "nets are constant on a batch.",
        )
    ]


def _limit(signal: LayerSignal) -> float:
    """Returns the fraction of dead units that is too much.

    Deep in a rectified net all rows point in nearly the same direction, so that each unit is on for
    all or off for all, half of them by chance: the number that is off is binomial. The limit lies
    4.5 standard deviations above its mean, and short of all units, which is always too many.
    """
    chance = 0.5 + 4.5 * 0.5 / math.sqrt(signal.units)
    return min(max(_LARGEST, chance), 1 - 0.5 / signal.units)
