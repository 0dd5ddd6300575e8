"""Rule: inputs that were not brought to the scale that weights are drawn for."""

import numpy as np

from kerastools._core.graph.fans import kernel_axes
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence, Findings

# Root mean square of sound inputs: 1 if standardised, about 0.5 for pixels in [0, 1].
_LARGEST = 10.0
_SMALLEST_VALUE = 0.01


def input_scale(evidence: Evidence) -> Findings:
    """What enters the first kernels is far from variance 1."""
    for record in evidence.records:
        entering = record.entering
        if record.path not in evidence.flow.first or entering is None:
            continue
        # Integers are looked up.
        if entering.dtype.kind != "f" or "embeddings" in kernel_axes(record.layer):
            continue
        if entering.size == 0 or not np.isfinite(entering).all():
            continue
        entering = entering.astype("float64")
        scale, largest = float(np.sqrt((entering**2).mean())), float(np.abs(entering).max())
        too_large, too_small = scale > _LARGEST, 0 < largest < _SMALLEST_VALUE
        if too_large or too_small:
            yield Finding(
                rule="inputs not normalised",
                layer=record.path,
                value=scale if too_large else largest,
                threshold=_LARGEST if too_large else _SMALLEST_VALUE,
                evidence=f"What enters {record.path} has mean {entering.mean():.3g}, standard "
                f"deviation {entering.std():.3g} and a largest value of {largest:.3g}; "
                "weights are drawn for mean 0 and variance 1.",
                fix="A keras.layers.Normalization() layer, adapted to x, as the first layer.",
                source="LeCun, Bottou, Orr and Müller 1998, Efficient backprop, section 4.3.",
            )
            return
