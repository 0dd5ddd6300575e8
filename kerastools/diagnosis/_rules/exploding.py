"""Rules: the signal grows on its way forward, or the gradient on its way back."""

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._probe.trend import trend
from kerastools.diagnosis._rules.evidence import DECADES, SLOPE, Evidence

_FIX = (
    "kerastools.calibration.initialize(model); where branches are added to each other, "
    "keras.layers.BatchNormalization() in each branch."
)


def exploding_signal(evidence: Evidence) -> list[Finding]:
    """The second moment of the outputs grows geometrically from layer to layer."""
    hidden = evidence.hidden()
    t = trend([s.second_moment for s in hidden])
    if not t.rises(SLOPE, DECADES):
        return []
    first, last = hidden[0], hidden[-1]
    return [
        Finding(
            rule="exploding signal",
            layer=last.layer,
            value=t.slope,
            threshold=SLOPE,
            layers=tuple(s.layer for s in hidden),
            evidence=f"The mean squared output changes by {t.slope:+.3f} decades per layer, from "
            f"{first.second_moment:.2g} ({first.layer}) to {last.second_moment:.2g} "
            f"({last.layer}) over {t.num_layers} layers.",
            fix=_FIX,
            source="He et al. 2015, section 2.2.",
        )
    ]


def exploding_gradient(evidence: Evidence) -> list[Finding]:
    """The gradient of the kernels grows geometrically from the last layer to the first."""
    hidden = evidence.hidden()
    t = trend([s.gradient_norm for s in hidden])
    if not t.falls(SLOPE, DECADES):
        return []
    first, last = hidden[0], hidden[-1]
    return [
        Finding(
            rule="exploding gradient",
            layer=first.layer,
            value=-t.slope,
            threshold=SLOPE,
            layers=tuple(s.layer for s in hidden),
            evidence=f"The kernel's gradient grows by {-t.slope:.3f} decades per layer on its way "
            f"back, from norm {last.gradient_norm:.2g} ({last.layer}) to "
            f"{first.gradient_norm:.2g} ({first.layer}) over {t.num_layers} layers.",
            fix=_FIX,
            source="Glorot and Bengio 2010; Pascanu et al. 2013.",
        )
    ]
