"""Rule: inputs most of which never change."""

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence, Findings

_LARGEST = 0.5


def constant_features(evidence: Evidence) -> Findings:
    """More than half of the features of a flat input are the same in every row.

    A few are usual: the rims of images. With fewer rows than features rare ones look constant.
    """
    for place, x in enumerate(evidence.x):
        if x.ndim != 2 or x.dtype.kind not in "fiub" or len(x) < max(32, 2 * x.shape[1]):
            continue
        constant = np.all(x == x[:1], axis=0)
        if constant.mean() > _LARGEST:
            examples = ", ".join(map(str, np.flatnonzero(constant)[:5]))
            yield Finding(
                rule="constant features",
                layer=evidence.input_names[place],
                value=float(constant.mean()),
                threshold=_LARGEST,
                evidence=f"{constant.sum()} of {len(constant)} features of the input are the "
                f"same in all {len(x)} rows: columns {examples} and so on. They tell nothing.",
                fix="x[:, x.std(axis=0) > 0], and a look at how x was read.",
                source="scikit-learn's VarianceThreshold removes them by default.",
            )
            return
