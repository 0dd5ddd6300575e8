"""Rule: no weight gets a gradient, and the layer that passes none on."""

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

# Signals beyond these have lost their gradient to the range of float32; other rules say so.
_SMALLEST, _LARGEST = 1e-20, 1e8
# What rounding makes of a gradient that is 0, absolute and relative to that of the outputs.
_ROUNDING = 1e-6


def no_gradient(evidence: Evidence) -> list[Finding]:
    """Everything is frozen, or an operation cuts the gradient off: training changes nothing."""
    gradients = [g for r in evidence.records for g in r.gradients]
    weights = evidence.subject.model.weights
    if not weights or (evidence.subject.model.trainable_variables and not gradients):
        return []
    largest = max((float(np.abs(g).max(initial=0.0)) for g in gradients), default=0.0)
    if not largest < _ROUNDING:  # NaN is no small gradient.
        return []
    if not gradients:
        layer, text = evidence.signals[-1].layer, "All weights are frozen: none is trained."
        fix = "layer.trainable = True for what is to be trained, or a new layer behind it."
    else:
        if not all(_SMALLEST < s.second_moment < _LARGEST for s in evidence.hidden()):
            return []
        norms = evidence.output_gradients()
        limit = _ROUNDING * max(norm for _, norm in norms)
        if largest > limit > 0:
            return []  # A model that has learned all gets small ones.
        first = next((i for i, (_, norm) in enumerate(norms) if norm > limit), len(norms))
        passed = [path for path, _ in norms[first : first + 1]]
        before = max((norm for _, norm in norms[:first]), default=0.0)
        if passed and before > _ROUNDING * norms[first][1]:
            return []  # It fades on its way, for which there are other rules.
        layer = passed[0] if passed else evidence.signals[-1].layer
        what = "gets one, and passes none on" if passed else "gets none from the loss"
        text = f"The gradient is 0 for every weight: {layer} {what}."
        fix = "No softmax over one unit, ops.stop_gradient, argmax or rounding on the way to the "
        fix += "loss; and no last layer that is rectified and dead."
    return [
        Finding(
            rule="no gradient",
            layer=layer,
            value=0.0,
            threshold=0.0,
            evidence=text,
            fix=fix,
            source="Rumelhart, Hinton and Williams 1986, Learning representations by "
            "back-propagating errors.",
        )
    ]
