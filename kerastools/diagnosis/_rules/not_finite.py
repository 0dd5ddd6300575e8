"""Rule: NaN or infinity, with the first layer that made it."""

import math

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence, Findings


def not_finite(evidence: Evidence) -> Findings:
    """An output, the loss or a gradient is NaN or infinite."""
    forward = [s for s in evidence.signals if not math.isfinite(s.second_moment)]
    if forward:
        layer, what, value = forward[0].layer, "outputs", forward[0].second_moment
    elif not math.isfinite(evidence.loss):
        layer, what, value = (
            evidence.signals[-1].layer,
            "finite outputs, but the loss",
            evidence.loss,
        )
    else:
        # Gradients come to the last layer first.
        backward = [s for s in reversed(evidence.signals) if not s.finite]
        if not backward:
            return
        layer, what, value = backward[0].layer, "gradients", backward[0].gradient_norm or math.nan
    yield Finding(
        rule="not finite",
        layer=layer,
        value=value,
        threshold=math.inf,
        evidence=f"The first NaN or infinity stands in layer {layer}: {what}.",
        fix="kerastools.calibration.initialize(model) if the signal before it grows; else look "
        "for log(0), a division by 0, or weights that already hold NaN.",
        source="IEEE 754: float32 ends at 3.4e38, float16 at 65504.",
    )
