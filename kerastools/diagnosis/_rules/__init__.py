"""The rules, a file per fault; each takes the evidence and returns its findings."""

from collections.abc import Callable

from kerastools.diagnosis._rules.attention import attention_weights, no_positions
from kerastools.diagnosis._rules.batch_norm import batch_norm_batch, batch_norm_remainder
from kerastools.diagnosis._rules.constant_features import constant_features
from kerastools.diagnosis._rules.constraint_axis import constraint_axis
from kerastools.diagnosis._rules.dead_units import dead_units
from kerastools.diagnosis._rules.dropout import dropout_place, dropout_rate
from kerastools.diagnosis._rules.evidence import Evidence, Findings, Output
from kerastools.diagnosis._rules.identical_weights import identical_weights
from kerastools.diagnosis._rules.input_scale import input_scale
from kerastools.diagnosis._rules.labels import labels
from kerastools.diagnosis._rules.learning_rate import learning_rate, update_ratio
from kerastools.diagnosis._rules.linear_layers import linear_layers
from kerastools.diagnosis._rules.no_gradient import no_gradient
from kerastools.diagnosis._rules.not_finite import not_finite
from kerastools.diagnosis._rules.output_activation import output_activation
from kerastools.diagnosis._rules.recurrent import unbounded_recurrence
from kerastools.diagnosis._rules.regularizer import regularizer
from kerastools.diagnosis._rules.saturated import saturated
from kerastools.diagnosis._rules.trends import gradient_trend, signal_trend
from kerastools.diagnosis._rules.wrong_initialisation import wrong_initialisation

# The order in which findings are told: what ruins the others' figures first.
RULES: tuple[Callable[[Evidence], Findings], ...] = (
    not_finite,
    input_scale,
    labels,
    output_activation,
    no_gradient,
    linear_layers,
    regularizer,
    unbounded_recurrence,
    attention_weights,
    no_positions,
    constant_features,
    signal_trend,
    gradient_trend,
    saturated,
    dead_units,
    identical_weights,
    wrong_initialisation,
    learning_rate,
    update_ratio,
    dropout_rate,
    dropout_place,
    constraint_axis,
    batch_norm_batch,
    batch_norm_remainder,
)

__all__ = ["RULES", "Evidence", "Output"]
