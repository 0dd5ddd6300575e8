"""Rules: the signal fades or grows on its way forward, or the gradient on its way back."""

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._probe.trend import trend
from kerastools.diagnosis._rules.evidence import DECADES, SLOPE, Evidence, Findings

_SIGMOIDS = ("sigmoid", "hard_sigmoid", "softmax")
_INITIALIZE = "kerastools.calibration.initialize(model)"
_GROWS = (
    f"{_INITIALIZE}; where branches are added to each other, "
    "keras.layers.BatchNormalization() in each branch."
)


def signal_trend(evidence: Evidence) -> Findings:
    """The second moment of the outputs changes geometrically from layer to layer."""
    hidden = evidence.hidden()
    t = trend([s.second_moment for s in hidden])
    vanishes = t.falls(SLOPE, DECADES)
    if not vanishes and not t.rises(SLOPE, DECADES):
        return
    first, last = hidden[0], hidden[-1]
    source = "He et al. 2015, section 2.2"
    if vanishes:
        source += ": rectifiers with Glorot weights lose log10 2 = 0.301 decades per layer"
    yield Finding(
        rule="vanishing signal" if vanishes else "exploding signal",
        layer=last.layer,
        layers=tuple(s.layer for s in hidden),
        value=t.slope,
        threshold=-SLOPE if vanishes else SLOPE,
        evidence=f"The mean squared output changes by {t.slope:+.3f} decades per layer, from "
        f"{first.second_moment:.2g} ({first.layer}) to {last.second_moment:.2g} "
        f"({last.layer}) over {t.num_layers} layers.",
        fix=f"{_INITIALIZE}, which scales each layer's weights for its activation."
        if vanishes
        else _GROWS,
        source=f"{source}.",
    )


def gradient_trend(evidence: Evidence) -> Findings:
    """The gradient of the kernels changes geometrically from the last layer to the first."""
    hidden = evidence.hidden()
    t = trend([s.gradient_norm for s in hidden])
    vanishes = t.rises(SLOPE, DECADES)
    if not vanishes and not t.falls(SLOPE, DECADES):
        return
    first, last = hidden[0], hidden[-1]
    sigmoids = sum(s.activation in _SIGMOIDS for s in evidence.signals if not s.is_output)
    # The slope of the logistic function is at most 1/4: no initialisation makes up for that.
    logistic = vanishes and 2 * sigmoids > len(hidden)
    activation = 'activation="tanh" or "relu" in the hidden layers, and then ' if logistic else ""
    yield Finding(
        rule="vanishing gradient" if vanishes else "exploding gradient",
        layer=first.layer,
        layers=tuple(s.layer for s in hidden),
        value=abs(t.slope),
        threshold=SLOPE,
        evidence=f"The kernel's gradient {'shrinks' if vanishes else 'grows'} by "
        f"{abs(t.slope):.3f} decades per layer on its way back, from norm "
        f"{last.gradient_norm:.2g} ({last.layer}) to {first.gradient_norm:.2g} ({first.layer}) "
        f"over {t.num_layers} layers.",
        fix=f"{activation}{_INITIALIZE}." if vanishes else _GROWS,
        source="Glorot and Bengio 2010" + ("." if vanishes else "; Pascanu et al. 2013."),
        remedy="relu" if logistic else None,
    )
