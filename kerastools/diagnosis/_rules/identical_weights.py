"""Rule: units, or layers, that began with the same numbers."""

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._probe.signals import LayerRecord
from kerastools.diagnosis._rules.evidence import Evidence

# Fewer numbers agree by chance where they were rounded.
_FEWEST = 16


def identical_weights(evidence: Evidence) -> list[Finding]:
    """All units of a hidden layer are one unit, or two kernels hold the same random numbers."""
    return _identical_units(evidence) or _identical_kernels(evidence)


def _identical_units(evidence: Evidence) -> list[Finding]:
    """Units with equal weights and equal gradients stay equal for good.

    Weights alone do not tell: a branch that begins at zero gets a gradient of its own per unit.
    """
    guilty = [
        (record, columns)
        for record in evidence.records
        if record.path not in evidence.flow.last
        for kernel, gradient in zip(record.kernels, record.gradients, strict=True)
        if (columns := kernel.shape[-1]) > 1
        and _columns_are_equal(kernel)
        and np.isfinite(gradient).all()
        and _columns_are_equal(gradient, tolerance=1e-4)
    ]
    if not guilty:
        return []
    record, units = guilty[0]
    return [
        Finding(
            rule="identical weights",
            layer=record.path,
            value=float(units),
            threshold=1.0,
            evidence=f"All {units} units of {record.path} have the same weights and get the same "
            f"gradient, so that they stay one unit; so it is in {len(guilty)} kernels.",
            fix="kerastools.calibration.initialize(model), which draws every weight at random.",
            layers=tuple(r.path for r, _ in guilty),
            source="Goodfellow, Bengio and Courville 2016, Deep Learning, section 8.4.",
        )
    ]


def _identical_kernels(evidence: Evidence) -> list[Finding]:
    """Two kernels that were drawn from one seed."""
    seen: dict[bytes, LayerRecord] = {}
    calls: set[str] = set()
    found: list[tuple[LayerRecord, LayerRecord, int]] = []
    for record in evidence.records:
        if record.path in calls:  # A shared layer is one layer.
            continue
        calls.add(record.path)
        for kernel in record.kernels:
            flat = kernel.ravel().astype("float64")[:_FEWEST]
            largest = float(np.abs(flat).max(initial=0.0))
            if flat.size < _FEWEST or len(np.unique(flat)) < _FEWEST or not np.isfinite(largest):
                continue
            # One seed gives the same numbers up to the scale that the fans set.
            key = np.round(flat / largest, 4).tobytes()
            if key in seen:
                found.append((seen[key], record, kernel.size))
            seen.setdefault(key, record)
    if not found:
        return []
    other, record, size = found[0]
    where = f"Layer {record.path}" if other is record else f"{other.path} and {record.path}"
    what = "holds two kernels" if other is record else "hold kernels"
    return [
        Finding(
            rule="identical weights",
            layer=record.path,
            value=float(size),
            threshold=0.0,
            evidence=f"{where} {what} with the same random numbers: they were drawn from one "
            f"seed; so it is in {len(found)} kernels.",
            fix="kerastools.calibration.initialize(model), which gives every variable a draw of "
            "its own.",
            source="Keras repeats a seeded initializer for equal shapes (keras-team/keras issue "
            "15586).",
            layers=tuple(dict.fromkeys(record.path for _, record, _ in found)),
        )
    ]


def _columns_are_equal(array: np.ndarray, tolerance: float = 0.0) -> bool:
    columns = array.reshape(-1, array.shape[-1]).astype("float64")
    spread = np.abs(columns - columns[:, :1]).max()
    return bool(spread <= tolerance * np.abs(columns).max())
