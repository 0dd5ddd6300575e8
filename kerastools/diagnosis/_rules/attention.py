"""Rules: attention that looks at one position only or at all alike, and texts without order."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.graph.calls import read_graph, sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

# A weight that is all, and for how many queries it must be.
_ALL, _MOST = 0.99, 0.9
_ROWS = 8


def attention_weights(evidence: Evidence) -> list[Finding]:
    """Self-attention in which a softmax is saturated, or that no gradient makes other than even."""
    own = {c.path for c in _calls(evidence) if len({id(t) for t in c.data}) == 1}
    for record in evidence.records:
        if record.path not in own or record.entering is None or record.entering.ndim != 3:
            continue
        x = ops.convert_to_tensor(record.entering[:_ROWS])
        with keras.StatelessScope():
            _, weights = record.layer(x, x, return_attention_scores=True)
        weights = ops.convert_to_numpy(weights).astype("float64")
        num = weights.shape[-1]
        single = float((weights.max(axis=-1) > _ALL).mean())
        if num < 3 or not np.isfinite(weights).all():
            continue
        is_even = bool(np.abs(weights - 1 / num).max() < 1e-6 / num)
        stuck = is_even and sum(not np.any(g) for g in record.gradients) >= 2
        if single > _MOST or stuck:
            what = f"lies on one position for {single:.0%} of the queries, where a softmax has no "
            what += "gradient" if single > _MOST else ""
            if stuck:
                what = "is the same at every position, and no gradient changes it"
            return [
                Finding(
                    rule="attention weights",
                    layer=record.path,
                    value=1.0 if stuck else single,
                    threshold=_MOST,
                    evidence=f"The attention of {record.path} {what}.",
                    fix="keras.layers.LayerNormalization() in front of it, and query and key "
                    "kernels as Keras draws them.",
                    source="Vaswani et al. 2017, Attention is all you need, section 3.2.1; Zhai et "
                    "al. 2023, Stabilizing transformer training by preventing attention entropy "
                    "collapse.",
                )
            ]
    return []


def no_positions(evidence: Evidence) -> list[Finding]:
    """A text is attended to, and its tokens in another order give the same outputs."""
    calls = _calls(evidence)
    if not calls or len(evidence.x) != 1 or evidence.x[0].ndim != 2:
        return []
    outer = [r.layer for r in evidence.records if isinstance(r.layer, keras.Layer)]
    layers = [inner for layer in outer for inner in sublayers(layer)]
    x = evidence.x[0][:_ROWS]
    if x.dtype.kind not in "iuf" or x.shape[1] < 3 or (x != np.floor(x)).any():
        return []
    if not any(is_kind(a, "embedding") for a in layers):
        return []
    if any(is_kind(a, "recurrent", "convolution") for a in layers):
        return []
    model = evidence.subject.model
    order = np.random.default_rng(0).permutation(x.shape[1])
    with keras.StatelessScope():
        first, second = (
            [ops.convert_to_numpy(t) for t in tree.flatten(model(rows, training=False))]
            for rows in (x, x[:, order])
        )
    for a, b in zip(first, second, strict=True):
        a = a[:, order] if a.ndim == 3 and a.shape[1] == len(order) else a
        if np.abs(a - b).max() > 1e-4 * np.abs(a).max():
            return []
    return [
        Finding(
            rule="no positions",
            layer=calls[0].path,
            value=0.0,
            threshold=1e-4,
            evidence=f"{calls[0].path} attends to tokens, but in another order they give the same "
            "outputs: the model does not know where a token stands.",
            fix="An embedding of positions, added to that of the tokens.",
            source="Vaswani et al. 2017, Attention is all you need, section 3.5.",
        )
    ]


def _calls(evidence: Evidence) -> list[Any]:
    """Returns the calls of attention with queries and keys of its own kernels."""
    graph = read_graph(evidence.subject.model, "diagnose").entered()
    return [
        call
        for call in graph.calls
        if is_kind(call.operation, "attention") and call.operation.weights
    ]
