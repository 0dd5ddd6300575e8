"""Rule: an activation without bounds in a recurrent layer over many steps."""

from kerastools._core.graph.activations import activation_name
from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import kind_of
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

_UNBOUNDED = ("relu", "elu", "leaky_relu", "selu", "linear", "softplus")
_LONG = 50


def unbounded_recurrence(evidence: Evidence) -> list[Finding]:
    """What an LSTM or a GRU without tanh returns is fed back, and may grow at every step."""
    for record in evidence.records:
        if record.entering is None or record.entering.ndim < 3:
            continue
        steps = record.entering.shape[1]
        for layer in sublayers(record.layer) if hasattr(record.layer, "weights") else ():
            name = activation_name(getattr(layer, "activation", None))
            if kind_of(layer).gates > 1 and name in _UNBOUNDED and steps >= _LONG:
                return [
                    Finding(
                        rule="unbounded recurrence",
                        layer=record.path,
                        value=float(steps),
                        threshold=float(_LONG),
                        evidence=f"The {name} of {record.path} has no bound, and its outputs are "
                        f"fed back over {steps} steps: they and their gradients can explode.",
                        fix='activation="tanh", the default; it is also what cuDNN is fast for.',
                        source="Pascanu, Mikolov and Bengio 2013, On the difficulty of training "
                        "recurrent neural networks.",
                    )
                ]
    return []
