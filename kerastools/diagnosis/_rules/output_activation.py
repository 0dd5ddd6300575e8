"""Rule: outputs that are not what the loss takes them for."""

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence, Findings, Output

_CATEGORICAL = ("categorical_crossentropy", "sparse_categorical_crossentropy")
_BINARY = ("binary_crossentropy", "binary_focal_crossentropy")
_POSITIVE = ("poisson", "kl_divergence")
_REGRESSION = (
    "mean_squared_error",
    "mean_absolute_error",
    "huber",
    "log_cosh",
    "mean_absolute_percentage_error",
)
# What an output activation can reach.
_RANGES = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, np.inf),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, np.inf),
}
_OUT_OF_REACH = 0.05
_LINEAR = "A linear output layer, or from_logits=False."
_ACTIVATED = 'activation="{}" in the output layer, or from_logits=True with a linear one.'


def output_activation(evidence: Evidence) -> Findings:
    """Logits where the loss expects probabilities, probabilities where it expects logits, ..."""
    for output in evidence.outputs:
        wrong = _what_is_wrong(output.loss_name, output.from_logits, output)
        if wrong is not None and np.isfinite(output.values).all():
            text, fix, value, threshold, remedy = wrong
            yield Finding(
                rule="output activation",
                layer=output.layer,
                value=value,
                threshold=threshold,
                evidence=text,
                fix=fix,
                source="Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.",
                remedy=remedy,
            )


_Found = tuple[str, str, float, float, str | None]


def _what_is_wrong(loss: str, from_logits: bool, output: Output) -> _Found | None:
    values, name = output.values.astype("float64"), output.activation
    low, high = float(values.min()), float(values.max())
    inside = low >= -1e-6 and high <= 1 + 1e-6
    one = f"{output.layer} ({name})"
    if loss in _CATEGORICAL:
        sums = values.sum(axis=-1)
        apart = float(np.abs(sums - 1).max())
        probabilities = inside and apart < 1e-2
        if values.shape[-1] == 1:
            text = (
                f"{one} has a single unit; {loss} compares classes, and a distribution over one "
                "class is always 1."
            )
            fix = "One unit per class with softmax, or one sigmoid unit with binary_crossentropy."
            return text, fix, 1.0, 2.0, None
        if from_logits and probabilities:
            text = (
                f"{loss}(from_logits=True) applies a softmax itself, but what {one} returns are "
                f"probabilities already: from {low:.3g} to {high:.3g}, their sum 1."
            )
            return text, _LINEAR, apart, 1e-2, "linear"
        if not from_logits and not probabilities:
            text = (
                f"{loss} takes probabilities, but what {one} returns goes from {low:.3g} to "
                f"{high:.3g} and sums to {sums.min():.3g} to {sums.max():.3g} in a row."
            )
            return text, _ACTIVATED.format("softmax"), apart, 1e-2, "softmax"
    if loss in _BINARY:
        if from_logits and name in ("sigmoid", "softmax", "hard_sigmoid"):
            text = f"{loss}(from_logits=True) applies a sigmoid itself, but {one} applied {name}."
            return text, _LINEAR, high, 1.0, "linear"
        if not from_logits and (not inside or (name == "softmax" and values.shape[-1] == 1)):
            what = "is always 1" if inside else f"goes from {low:.3g} to {high:.3g}"
            text = f"{loss} takes probabilities, but what {one} returns {what}."
            return text, _ACTIVATED.format("sigmoid"), max(-low, high), 1.0, "sigmoid"
    if loss in _POSITIVE and low < 0:
        text = f"{loss} takes the logarithm of the outputs, but {one} returns down to {low:.3g}."
        fix = 'activation="softplus" (poisson) or "softmax" (kl_divergence) in the output layer.'
        return text, fix, low, 0.0, "softplus" if loss == "poisson" else "softmax"
    if loss in _REGRESSION and name in _RANGES:
        bottom, top = _RANGES[name]
        beyond = float(np.mean((output.targets < bottom - 1e-6) | (output.targets > top + 1e-6)))
        if beyond > _OUT_OF_REACH:
            text = (
                f"{beyond:.0%} of the targets, which go from {output.targets.min():.3g} to "
                f"{output.targets.max():.3g}, lie outside of what {one} can reach."
            )
            return text, "A linear output layer.", beyond, _OUT_OF_REACH, "linear"
    return None
