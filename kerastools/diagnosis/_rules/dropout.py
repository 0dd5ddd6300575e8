"""Rules: dropout that drops too much, or what should not be dropped."""

from kerastools._core.graph.kinds import is_kind
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence, Findings

_LARGEST = 0.7


def dropout_rate(evidence: Evidence) -> Findings:
    """Most units are dropped."""
    return [
        Finding(
            rule="dropout rate",
            layer=path,
            value=rate,
            threshold=_LARGEST,
            evidence=f"{path} drops {rate:.0%} of the units; what is left is scaled by "
            f"{1 / max(1 - rate, 1e-7):.3g} and mostly noise.",
            fix="A rate of 0.1 to 0.5; kerastools.regularization.AdaptiveDropout looks for it.",
            source="Srivastava et al. 2014, section 7.3: best between 0.2 and 0.6.",
        )
        for path, rate in _rates(evidence).items()
        if rate > _LARGEST
    ]


def dropout_place(evidence: Evidence) -> Findings:
    """Dropout stands between the last layer with weights and the loss."""
    return [
        Finding(
            rule="dropout on the output",
            layer=path,
            value=rate,
            threshold=0.0,
            evidence=f"{path} stands behind the last layer with weights: in training {rate:.0%} of "
            "the predictions themselves are dropped.",
            fix="Dropout in front of the output layer, not behind it.",
            source="Srivastava et al. 2014: input and hidden units are dropped.",
        )
        for path, rate in _rates(evidence).items()
        if rate > 0 and path in evidence.flow.after_last
    ]


def _rates(evidence: Evidence) -> dict[str, float]:
    layers = {r.path: r.layer for r in evidence.records if is_kind(r.layer, "dropout")}
    return {path: float(layer.get_config()["rate"]) for path, layer in layers.items()}
