"""Rules: the signal fades on its way forward, or the gradient on its way back."""

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._probe.trend import trend
from kerastools.diagnosis._rules.evidence import DECADES, SLOPE, Evidence

_SIGMOIDS = ("sigmoid", "hard_sigmoid", "softmax")


def vanishing_signal(evidence: Evidence) -> list[Finding]:
    """The second moment of the outputs shrinks geometrically from layer to layer."""
    hidden = evidence.hidden()
    t = trend([s.second_moment for s in hidden])
    if not t.falls(SLOPE, DECADES):
        return []
    first, last = hidden[0], hidden[-1]
    return [
        Finding(
            rule="vanishing signal",
            layer=last.layer,
            value=t.slope,
            threshold=-SLOPE,
            layers=tuple(s.layer for s in hidden),
            evidence=f"The mean squared output changes by {t.slope:+.3f} decades per layer, from "
            f"{first.second_moment:.2g} ({first.layer}) to {last.second_moment:.2g} "
            f"({last.layer}) over {t.num_layers} layers.",
            fix="kerastools.calibration.initialize(model), which scales each layer's weights for "
            "its activation.",
            source="He et al. 2015, section 2.2: rectifiers with Glorot weights lose log10 2 = "
            "0.301 decades per layer.",
        )
    ]


def vanishing_gradient(evidence: Evidence) -> list[Finding]:
    """The gradient of the kernels shrinks geometrically from the last layer to the first."""
    hidden = evidence.hidden()
    t = trend([s.gradient_norm for s in hidden])
    if not t.rises(SLOPE, DECADES):
        return []
    first, last = hidden[0], hidden[-1]
    sigmoids = sum(s.activation in _SIGMOIDS for s in evidence.signals if not s.is_output)
    fix = "kerastools.calibration.initialize(model)"
    if 2 * sigmoids > len(hidden):
        # The slope of the logistic function is at most 1/4: no initialisation makes up for that.
        fix = 'activation="tanh" or "relu" in the hidden layers, and then ' + fix
    return [
        Finding(
            rule="vanishing gradient",
            layer=first.layer,
            value=t.slope,
            threshold=SLOPE,
            layers=tuple(s.layer for s in hidden),
            evidence=f"The kernel's gradient shrinks by {t.slope:.3f} decades per layer on its way "
            f"back, from norm {last.gradient_norm:.2g} ({last.layer}) to "
            f"{first.gradient_norm:.2g} ({first.layer}) over {t.num_layers} layers.",
            fix=fix + ".",
            source="Glorot and Bengio 2010.",
            remedy="relu" if 2 * sigmoids > len(hidden) else None,
        )
    ]
