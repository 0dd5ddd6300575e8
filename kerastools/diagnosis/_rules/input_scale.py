"""Rule: inputs that were not brought to the scale that weights are drawn for."""

from dataclasses import replace

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

# Root mean square of sound inputs: 1 if standardised, about 0.5 for pixels in [0, 1].
_LARGEST = 20.0
_SMALLEST_VALUE = 0.01


def input_scale(evidence: Evidence) -> list[Finding]:
    """What enters the first kernels is far from variance 1."""
    findings = []
    for path, entering in evidence.entering.items():
        if entering.dtype.kind != "f" or entering.size == 0 or not np.isfinite(entering).all():
            continue
        entering = entering.astype("float64")
        scale, largest = float(np.sqrt((entering**2).mean())), float(np.abs(entering).max())
        too_large, too_small = scale > _LARGEST, 0 < largest < _SMALLEST_VALUE
        if too_large or too_small:
            findings.append(
                Finding(
                    rule="inputs not normalised",
                    layer=path,
                    value=scale if too_large else largest,
                    threshold=_LARGEST if too_large else _SMALLEST_VALUE,
                    evidence=f"What enters {path} has mean {entering.mean():.3g}, standard "
                    f"deviation {entering.std():.3g} and a largest value of {largest:.3g} in "
                    f"{len(entering)} rows; weights are drawn for mean 0 and variance 1.",
                    fix="A keras.layers.Normalization() layer, adapted to x, as the first layer.",
                    source="LeCun, Bottou, Orr and Müller 1998, Efficient backprop, section 4.3.",
                )
            )
    if not findings:
        return []
    # One finding, for the input that is farthest off.
    worst = max(findings, key=lambda f: abs(np.log(f.value / f.threshold)))
    return [replace(worst, layers=tuple(f.layer for f in findings))]
