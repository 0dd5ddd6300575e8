"""Rule: targets that no model can learn from as they are."""

from typing import Any

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence
from kerastools.diagnosis._rules.output_activation import meaning

_CONTRADICTIONS = 0.05
_LARGEST_TARGET = 100.0
# So many rows per class are expected before a class that never appears is told.
_ROWS_PER_CLASS = 20
_MANY_FEATURES = 64
_SOURCE = "Northcutt, Athalye and Mueller 2021, Pervasive label errors."


def labels(evidence: Evidence) -> list[Finding]:
    """Targets of another form than the loss takes, constant, contradictory or huge ones, ..."""
    findings = [_misread(reading) for reading in evidence.subject.readings]
    for output in evidence.outputs:
        for check in (_constant, _fractional, _absent, _no_probabilities, _huge, _contradictory):
            found = check(evidence, output)
            if found is not None:
                value, threshold, text, fix = found
                y = output.targets
                scale = float(y.std()) or 1.0
                power = 2 if output.loss_name == "mean_squared_error" else 1
                remedy = (output.place, scale, float(y.mean()), power) if check is _huge else None
                findings.append(
                    Finding(
                        rule="labels",
                        layer=output.layer,
                        value=value,
                        threshold=threshold,
                        evidence=text,
                        fix=fix,
                        source=_SOURCE,
                        remedy=remedy,
                    )
                )
                break
    return findings


def _misread(reading: Any) -> Finding:
    return Finding(
        rule="labels",
        layer=reading.layer,
        value=1.0,
        threshold=0.0,
        evidence=reading.evidence,
        fix=reading.fix,
        source=_SOURCE,
        remedy=reading.what,
    )


_Found = tuple[float, float, str, str] | None


def _constant(evidence: Evidence, output: Any) -> _Found:
    y = output.targets
    if len(y) < 16 or (y != y[:1]).any():
        return None
    text = f"All {len(y)} targets of {output.layer} are the same."
    return 1.0, 2.0, text, "A look at how y was read."


def _fractional(evidence: Evidence, output: Any) -> _Found:
    """Numbers of classes that were scaled; Keras cuts off what is behind the point."""
    y = output.targets
    if output.loss_name != "sparse_categorical_crossentropy" or y.dtype.kind != "f":
        return None
    apart = float(np.mean(y != np.floor(y)))
    if not apart:
        return None
    text = f"{apart:.0%} of the targets of {output.layer} are no whole numbers, from {y.min():.3g} "
    text += f"to {y.max():.3g}: {output.loss_name} takes numbers of classes, and cuts off the rest."
    return apart, 0.0, text, "The numbers of the classes, not scaled, as targets."


def _absent(evidence: Evidence, output: Any) -> _Found:
    """Integer labels, or one-hot rows; positions of a text or an image may share a vocabulary."""
    classes = output.values.shape[-1]
    if output.values.ndim != 2:
        return None
    if output.loss_name == "sparse_categorical_crossentropy":
        present = len(np.unique(output.targets))
    elif output.loss_name == "categorical_crossentropy":
        present = int((output.targets.reshape(-1, classes) > 0).any(axis=0).sum())
    else:
        return None
    if present == classes or output.targets.shape[0] < _ROWS_PER_CLASS * classes:
        return None
    text = f"{classes - present} of the {classes} classes of {output.layer} never appear in y."
    fix = "All rows of all classes, shuffled; or an output layer with fewer units."
    return float(present), float(classes), text, fix


def _no_probabilities(evidence: Evidence, output: Any) -> _Found:
    y = output.targets
    if output.loss_name in ("binary_crossentropy", "binary_focal_crossentropy"):
        if (y.min() >= 0 and y.max() <= 1) or meaning(output) == "classes":
            return None
        text = f"The targets of {output.layer} go from {y.min():.3g} to {y.max():.3g}; "
        text += "crossentropy is unbounded below unless they are probabilities."
        return float(y.max() - y.min()), 1.0, text, "Labels 0 and 1: (y > 0).astype('float32')."
    if output.loss_name == "categorical_crossentropy":
        apart = float(np.abs(y.sum(axis=-1) - 1).max())
        if apart < 1e-2:
            return None
        text = f"Rows of the targets of {output.layer} sum to {y.sum(axis=-1).max():.3g}, not 1."
        fix = "One-hot labels, keras.utils.to_categorical(y); or sigmoid and binary_crossentropy."
        return apart, 1e-2, text, fix
    return None


def _huge(evidence: Evidence, output: Any) -> _Found:
    if output.loss_name not in ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh"):
        return None
    scale, begin = (
        float(np.sqrt((a.astype("float64") ** 2).mean())) for a in (output.targets, output.values)
    )
    if not scale > _LARGEST_TARGET * max(1.0, begin):
        return None
    text = f"The targets of {output.layer} have root mean square {scale:.3g}; outputs "
    text += f"begin near {begin:.2g}."
    return scale, _LARGEST_TARGET, text, "(y - y.mean()) / y.std() as targets."


def _contradictory(evidence: Evidence, output: Any) -> _Found:
    """Rows of x that are alike to the bit, and their labels are not."""
    if "crossentropy" not in output.loss_name or len(evidence.x) != 1:
        return None
    x, y = evidence.x[0], output.targets.reshape(len(output.targets), -1)
    if not _is_rich(x):
        return None
    groups: dict[bytes, list[int]] = {}
    for i in range(len(x)):
        groups.setdefault(x[i].tobytes(), []).append(i)
    repeated = [g for g in groups.values() if len(g) > 1]
    clash = sum(len(g) for g in repeated if (y[g] != y[g[0]]).any())
    if clash / len(x) <= _CONTRADICTIONS:
        return None
    text = f"{clash} of {len(x)} rows of x appear again, to the bit, with another label."
    return clash / len(x), _CONTRADICTIONS, text, "One label for equal rows; a look at the join."


def _is_rich(x: np.ndarray) -> bool:
    """Whether rows are not equal by chance, as those of a few categories are."""
    if x.dtype.kind not in "biuf" or x[0].size < 2:
        return False
    if x[0].size >= _MANY_FEATURES:
        return True
    return x.dtype.kind == "f" and bool((x != np.floor(x)).mean() > 0.5)
