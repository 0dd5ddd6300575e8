"""Rule: weights whose variance is far from every scheme's."""

import numpy as np
from keras import ops

from kerastools._core.graph.activations import activation_name
from kerastools._core.graph.fans import kernel_axes
from kerastools._core.graph.flow import walk
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

# Between the smallest and the largest of the schemes' variances, and by so much beyond.
_FACTOR = 10.0


def wrong_initialisation(evidence: Evidence) -> list[Finding]:
    """A kernel's variance is ten times off what He, LeCun and Glorot would give it.

    Recurrent kernels and embeddings have schemes of their own; behind a kernel that is normalised
    its scale does not matter, and that of an output is the loss's business.
    """
    apart = evidence.flow.normalised | evidence.flow.last
    guilty: list[tuple[float, str, str, float, float]] = []
    for placed in walk(evidence.subject.model, "diagnose"):
        if any(placed.path == p or placed.path.startswith(f"{p}/") for p in apart):
            continue
        for name, axes in kernel_axes(placed.layer).items():
            kernel = ops.convert_to_numpy(ops.cast(getattr(placed.layer, name), "float32"))
            variance = float(np.var(kernel.astype("float64")))
            if name in ("recurrent_kernel", "embeddings") or kernel.size < 32 or variance == 0:
                continue
            if not placed.layer.trainable:
                continue
            fan_in, fan_out = (max(1.0, fan) for fan in axes.fans(kernel.shape))
            # By the true fans, and by those that Keras counts for every kernel.
            size = kernel.size / (kernel.shape[-1] * kernel.shape[-2])
            fans = (fan_in, fan_out, size * kernel.shape[-2], size * kernel.shape[-1])
            low, high = 1 / max(fans) / _FACTOR, 2 / min(fans[0], fans[2]) * _FACTOR
            # Schemes by fan_out give more where outputs are fewer.
            high = max(high, 2 / max(fan_out, fans[3]) * _FACTOR)
            off = max(low / variance, variance / high)
            if np.isfinite(variance) and off > 1:
                activation = activation_name(placed.activation)
                limit = low if variance < low else high
                guilty.append((off, placed.path, activation, variance, limit))
    if not guilty:
        return []
    _, layer, activation, variance, limit = max(guilty)
    return [
        Finding(
            rule="wrong initialisation",
            layer=layer,
            value=variance,
            threshold=limit,
            evidence=f"The weights of {layer} ({activation}) have variance {variance:.2g}; for "
            f"its fans and its activation a tenfold of what any scheme gives ends at {limit:.2g}; "
            f"so it is in {len(guilty)} layers.",
            fix="kerastools.calibration.initialize(model).",
            layers=tuple(path for _, path, *_ in guilty),
            source="Glorot and Bengio 2010; He et al. 2015; Amazon SageMaker Debugger's rule "
            "PoorWeightInitialization also takes a variance ratio of 10.",
        )
    ]
