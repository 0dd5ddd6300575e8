"""The rules, one per file; each takes the evidence and returns its findings."""

from collections.abc import Callable

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules._batch_norm_remainder import batch_norm_remainder
from kerastools.diagnosis._rules._dead_units import dead_units
from kerastools.diagnosis._rules._evidence import Evidence
from kerastools.diagnosis._rules._exploding import exploding_gradient, exploding_signal
from kerastools.diagnosis._rules._not_finite import not_finite
from kerastools.diagnosis._rules._saturated import saturated
from kerastools.diagnosis._rules._vanishing import vanishing_gradient, vanishing_signal

# The order in which findings are told: what ruins the others' figures first.
RULES: tuple[Callable[[Evidence], list[Finding]], ...] = (
    not_finite,
    vanishing_signal,
    exploding_signal,
    vanishing_gradient,
    exploding_gradient,
    saturated,
    dead_units,
    batch_norm_remainder,
)

__all__ = ["RULES", "Evidence"]
