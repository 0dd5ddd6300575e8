"""Rule: layers in a row without an activation between them, which are no more than one."""

from typing import Any

from kerastools._core.graph.activations import own_activation
from kerastools._core.graph.calls import read_graph
from kerastools._core.graph.kinds import is_kind, unwrapped
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

# What is linear in its input, so that two kernels with it between them are one.
_LINEAR = (
    *("dropout", "noise", "identity", "penalty", "reshape", "resize", "batch_normalization"),
    *("average_pooling", "global_average_pooling"),
)


def linear_layers(evidence: Evidence) -> list[Finding]:
    """Most hidden layers lead to the next without an activation; a bottleneck may be meant."""
    graph = read_graph(evidence.subject.model, "diagnose").entered()
    hidden, guilty = [], []
    for call in graph.calls:
        layer = unwrapped(call.operation)
        if not is_kind(layer, "dense", "convolution") or not layer.trainable:
            continue
        if call.path in evidence.flow.last:
            continue
        hidden.append(call.path)
        following = _next_kernels(graph, call.outputs[0])
        if own_activation(layer) is None and following:
            units, before = (t.shape[-1] or 1 for t in (call.outputs[0], call.data[0]))
            after = max(c.outputs[0].shape[-1] or 1 for c in following)
            if not units < min(before, after):
                guilty.append(call.path)
    if not 2 * len(guilty) > len(hidden):
        return []
    return [
        Finding(
            rule="linear layers in a row",
            layer=guilty[0],
            value=float(len(guilty)),
            threshold=len(hidden) / 2,
            evidence=f"{len(guilty)} of {len(hidden)} hidden layers lead to the next kernel "
            f"without an activation, {guilty[0]} first: together they are one linear layer.",
            fix='activation="relu" in the hidden layers.',
            source="Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.1.",
            layers=tuple(guilty),
        )
    ]


def _next_kernels(graph: Any, tensor: Any) -> list[Any]:
    """Returns the kernels that a tensor reaches in a linear way; none if it goes elsewhere too."""
    found: list[Any] = []
    consumers = graph.consumers(tensor)
    for call in consumers:
        layer = unwrapped(call.operation)
        if is_kind(layer, "dense", "convolution"):
            found.append(call)
        elif is_kind(layer, *_LINEAR) and (more := _next_kernels(graph, call.outputs[0])):
            found += more
        else:
            return []
    return [] if graph.is_output(tensor) else found
