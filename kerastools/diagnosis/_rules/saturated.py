"""Rule: most outputs of a bounded activation lie at its bounds, where its slope is gone."""

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

_LARGEST = 0.5


def saturated(evidence: Evidence) -> list[Finding]:
    """More than half of the outputs of hidden logistic or tanh units lie near a bound."""
    hidden = [s for s in evidence.signals if s.saturated is not None and not s.is_output]
    guilty = [s for s in hidden if s.saturated is not None and s.saturated > _LARGEST]
    if not guilty:
        return []
    worst = max(guilty, key=lambda s: s.saturated or 0.0)
    fix = (
        "kerastools.calibration.initialize(model), and inputs of mean 0 and variance 1 "
        "(keras.layers.Normalization)."
    )
    if "sigmoid" in worst.activation:
        # No longer saturated, a stack of logistic units loses its gradient all the same.
        fix = 'activation="tanh" or "relu" in the hidden layers, then ' + fix
    return [
        Finding(
            rule="saturated",
            layer=worst.layer,
            value=worst.saturated or 0.0,
            threshold=_LARGEST,
            evidence=f"{worst.saturated:.0%} of the outputs of {worst.layer} ({worst.activation}) "
            f"lie near a bound, where the gradient is lost; so it is in {len(guilty)} of "
            f"{len(hidden)} such layers.",
            fix=fix,
            source="Glorot and Bengio 2010, section 3.",
            layers=tuple(s.layer for s in guilty),
            remedy="relu" if "sigmoid" in worst.activation else None,
        )
    ]
