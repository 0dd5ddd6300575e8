"""Rule: penalties on weights that outweigh what the model is trained for."""

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

# Of the norms of the gradients of penalty and loss; sound penalties lie far below 1.
_LARGEST, _USUAL = 10.0, 0.01


def regularizer(evidence: Evidence) -> list[Finding]:
    """The penalty is larger than the loss, and so is the gradient that it has, kernel by kernel."""
    penalties = dict(evidence.penalties)
    total, _ = penalties.pop("", (0.0, 0.0))
    rest = evidence.loss - total
    if not penalties or not total > abs(rest):
        return []
    ratios = {path: own / max(other, 1e-12) for path, (own, other) in penalties.items()}
    ratio = float(np.median(list(ratios.values())))
    if not _LARGEST < ratio < 1e9:  # Without a gradient of the loss that is what is wrong.
        return []
    worst = max(ratios, key=lambda path: ratios[path])
    return [
        Finding(
            rule="regularizer too strong",
            layer=worst,
            value=ratio,
            threshold=_LARGEST,
            evidence=f"The regularizers add {total:.3g} to a loss of {rest:.3g}, and their "
            f"gradient is {ratio:.3g} times as large as that of the loss (the median of "
            f"{len(ratios)} kernels): training shrinks the weights and learns nothing.",
            fix=f"Regularizers {_USUAL / ratio:.1g} times as strong; 1e-5 to 1e-3 is usual.",
            source="Krogh and Hertz 1991, A simple weight decay can improve generalization.",
            remedy=_USUAL / ratio,
            layers=tuple(ratios),
        )
    ]
