"""Rule: an output layer, a loss and targets that do not mean the same."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence, Output

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
# What cuts logits off, so that not every probability can be reached.
_CUTTING = ("relu", "relu6", "tanh", "sigmoid", "hard_sigmoid", "softmax")
# What makes no probabilities.
_NO_PROBABILITY = (
    "linear",
    "relu",
    "relu6",
    "tanh",
    "softplus",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
)
_OUT_OF_REACH = 0.05


@dataclass(frozen=True)
class _Wrong:
    text: str
    fix: str
    value: float = 1.0
    threshold: float = 0.0
    remedy: Any = None


def output_activation(evidence: Evidence) -> list[Finding]:
    """Logits where the loss expects probabilities, classes compared by a squared error, ..."""
    findings = []
    for output in evidence.outputs:
        wrong = _what_is_wrong(output)
        if wrong is not None and np.isfinite(output.values).all():
            findings.append(
                Finding(
                    rule="output activation",
                    layer=output.layer,
                    value=wrong.value,
                    threshold=wrong.threshold,
                    evidence=wrong.text,
                    fix=wrong.fix,
                    source="Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.",
                    remedy=wrong.remedy,
                )
            )
    return findings


def _what_is_wrong(output: Output) -> _Wrong | None:
    for losses, judge in (
        (_CATEGORICAL, _categorical),
        (_BINARY, _binary),
        (_POSITIVE, _positive),
        (_REGRESSION, _regression),
    ):
        if output.loss_name in losses:
            return judge(output)
    return None


def meaning(output: Output) -> str:
    """Returns what targets stand for: "one-hot", "multi-hot", "binary", "classes" or "numbers"."""
    y = output.targets
    if y.dtype.kind not in "biuf" or not y.size:
        return "numbers"
    is_wide = y.ndim == output.values.ndim and y.shape[-1] > 1
    if ((y == 0) | (y == 1)).all():
        if not is_wide:
            return "binary"
        return "one-hot" if (y.sum(axis=-1) == 1).all() else "multi-hot"
    is_class = not is_wide and y.min() >= 0 and (y == np.floor(y)).all()
    return "classes" if is_class else "numbers"


def _categorical(output: Output) -> _Wrong | None:
    loss, name, values = output.loss_name, output.activation, output.values.astype("float64")
    one, low, high = f"{output.layer} ({name})", float(values.min()), float(values.max())
    sums = values.sum(axis=-1)
    apart = float(np.abs(sums - 1).max())
    probabilities = low >= -1e-6 and high <= 1 + 1e-6 and apart < 1e-2
    if values.shape[-1] == 1:
        return _Wrong(
            f"{one} has a single unit; {loss} compares classes, and a distribution over one "
            "class is always 1.",
            "One unit per class with softmax, or one sigmoid unit with binary_crossentropy.",
            threshold=2.0,
        )
    if output.from_logits:
        if probabilities or name in _CUTTING:
            return _Wrong(
                f"{loss}(from_logits=True) applies a softmax itself, but {one} does not return "
                f"logits: its outputs go from {low:.3g} to {high:.3g}.",
                "A linear output layer, or softmax and from_logits=False.",
                apart,
                1e-2,
                "linear",
            )
        return None
    if name == "softmax":
        return _before_the_last(output)
    if name in _NO_PROBABILITY or name in _RANGES or not probabilities:
        return _Wrong(
            f"{loss} takes probabilities, but what {one} returns goes from {low:.3g} to "
            f"{high:.3g} and sums to {sums.min():.3g} to {sums.max():.3g} in a row.",
            'activation="softmax" in the output layer, or from_logits=True with a linear one.',
            apart,
            1e-2,
            "softmax",
        )
    return None


def _before_the_last(output: Output) -> _Wrong | None:
    """Two activations in a row at the end, the first of which cuts off what the last is given."""
    before = [(a, path) for a, path in output.tail[:-1] if a in _CUTTING]
    if not before:
        return None
    name = output.activation
    return _Wrong(
        f"{output.layer} applies {name} to what went through {before[0][0]} in {before[0][1]}: "
        "not every probability can be reached, and gradients are lost.",
        f"A linear {before[0][1]} in front of {name}.",
        float(len(output.tail)),
        1.0,
        (output.place, name, None, tuple(path for _, path in before)),
    )


def _binary(output: Output) -> _Wrong | None:
    loss, name, values = output.loss_name, output.activation, output.values.astype("float64")
    one, low, high = f"{output.layer} ({name})", float(values.min()), float(values.max())
    what = meaning(output)
    inside = low >= -1e-6 and high <= 1 + 1e-6
    units = values.shape[-1]
    if what == "classes" and units == 1:
        k = len(np.unique(output.targets))
        return _Wrong(
            f"{one} has one unit, but the targets are {k} classes; {loss} knows two.",
            'One unit per class with softmax, and loss="sparse_categorical_crossentropy".',
            float(k),
            2.0,
        )
    if output.from_logits:
        if name in _CUTTING:
            return _Wrong(
                f"{loss}(from_logits=True) applies a sigmoid itself, but {one} applied {name}.",
                "A linear output layer, or from_logits=False.",
                high,
                1.0,
                "linear",
            )
        return None
    if name == "softmax" and units > 1 and what == "multi-hot":
        return _Wrong(
            f"Several of the {units} targets of a row can be 1, but the softmax of {one} shares "
            "out a sum of 1 between them.",
            'activation="sigmoid" in the output layer.',
            float(output.targets.sum(axis=-1).max()),
            1.0,
            "sigmoid",
        )
    if name in ("sigmoid", "hard_sigmoid"):
        return _before_the_last(output)
    if name in _NO_PROBABILITY or not inside or (name == "softmax" and units == 1):
        what = "is always 1" if name == "softmax" else f"goes from {low:.3g} to {high:.3g}"
        return _Wrong(
            f"{loss} takes probabilities, but what {one} returns {what}.",
            'activation="sigmoid" in the output layer, or from_logits=True with a linear one.',
            max(-low, high),
            1.0,
            "sigmoid",
        )
    return None


def _positive(output: Output) -> _Wrong | None:
    low = float(output.values.min())
    if low >= 0:
        return None
    return _Wrong(
        f"{output.loss_name} takes the logarithm of the outputs, but {output.layer} "
        f"({output.activation}) returns down to {low:.3g}.",
        'activation="softplus" (poisson) or "softmax" (kl_divergence) in the output layer.',
        low,
        0.0,
        "softplus" if output.loss_name == "poisson" else "softmax",
    )


def _regression(output: Output) -> _Wrong | None:
    loss, name, y = output.loss_name, output.activation, output.targets
    one, units, what = f"{output.layer} ({name})", output.values.shape[-1], meaning(output)
    if name == "softmax" and units == 1:
        return _Wrong(
            f"{one} has a single unit, whose softmax is always 1: it has no gradient.",
            'activation="sigmoid" for two classes, a linear output layer for numbers.',
            threshold=2.0,
            remedy="sigmoid" if what == "binary" else "linear",
        )
    is_known = name in _NO_PROBABILITY or name in _RANGES
    if what in ("one-hot", "multi-hot") and is_known and output.values.ndim == 2:
        activation, better = {
            "one-hot": ("softmax", "categorical_crossentropy"),
            "multi-hot": ("sigmoid", "binary_crossentropy"),
        }[what]
        if what == "one-hot" or name == "softmax":
            return _Wrong(
                f"The targets of {one} are {what} classes; {loss} compares them as numbers.",
                f'activation="{activation}" in the output layer, and loss="{better}".',
                float(units),
                1.0,
                (output.place, activation, better, ()),
            )
    if name == "softmax" and not (y.min() >= 0 and np.abs(y.sum(axis=-1) - 1).max() < 1e-2):
        return _Wrong(
            f"The outputs of {one} sum to 1 in every row, but its targets do not.",
            "A linear output layer.",
            remedy="linear",
        )
    if name in _RANGES:
        bottom, top = _RANGES[name]
        beyond = float(np.mean((y < bottom - 1e-6) | (y > top + 1e-6)))
        if beyond > _OUT_OF_REACH:
            return _Wrong(
                f"{beyond:.0%} of the targets, which go from {y.min():.3g} to {y.max():.3g}, lie "
                f"outside of what {one} can reach.",
                "A linear output layer.",
                beyond,
                _OUT_OF_REACH,
                "linear",
            )
    return None
