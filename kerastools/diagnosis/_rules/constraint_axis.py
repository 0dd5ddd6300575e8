"""Rule: a norm constraint along axes that are not a unit's incoming weights."""

from typing import Any

from kerastools._core.graph.fans import incoming_axes
from kerastools._core.graph.flow import walk
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence, Findings


def constraint_axis(evidence: Evidence) -> Findings:
    """Keras's norms go over axis 0 of whatever shape, which is right for `Dense` alone."""
    for placed in walk(evidence.subject.model, "diagnose"):
        for name, right in incoming_axes(placed.layer).items():
            variable = getattr(placed.layer, name)
            axes = _axes(variable.constraint, tuple(variable.shape))
            if axes is None or axes == set(right):
                continue
            yield Finding(
                rule="constraint on the wrong axis",
                layer=placed.path,
                value=float(len(axes)),
                threshold=float(len(right)),
                evidence=f"{type(variable.constraint).__name__} on {name} of {placed.path} "
                f"takes norms over the axes {sorted(axes)} of shape {tuple(variable.shape)}; "
                f"one unit's incoming weights lie along {sorted(right)}.",
                fix=f"axis={list(right)}, or kerastools.constraints.for_layer(layer).",
                source="Srivastava et al. 2014, section 5.1: the norm of the incoming weight "
                "vector of each unit.",
            )


def _axes(constraint: Any, shape: tuple[int, ...]) -> set[int] | None:
    """Returns the axes that a norm constraint sums over; `None` for other constraints."""
    axis = getattr(constraint, "axis", None)
    if axis is None:
        return None
    if axis == "auto":
        return set(range(len(shape) - 1))
    if isinstance(axis, dict):
        axis = axis["x".join(map(str, shape))]
    return {a % len(shape) for a in (axis if isinstance(axis, list | tuple) else (axis,))}
