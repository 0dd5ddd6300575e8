"""Small exact changes that let TensorFlow fuse more."""

from typing import Any

import keras

from kerastools._core.graph.calls import Call, Graph, has_graph, sublayers
from kerastools._core.graph.kinds import is_kind, kind_of


def polish(model: Any) -> None:
    """Changes a model that nothing else uses, in place; what it computes stays.

    Zero padding before a convolution goes where TensorFlow's "same" pads alike, and silu becomes
    x · σ(x), which has no gradient of its own that would keep it from being fused.
    """
    for part in sublayers(model):
        if has_graph(part):
            _merge_zero_padding(Graph(part))
        # A recurrent layer only shows that of its cell.
        if vars(part).get("activation") is keras.activations.silu:
            part.activation = _silu


def keep_apart(model: Any) -> None:
    """Keeps TensorFlow from fusing some activations with a convolution before them, in place.

    Where weights are variables, it computes relu6, elu and silu inside a fused convolution up to
    eight times as slowly as after it (TensorFlow 2.21 with oneDNN; not where they are constants).
    """
    for part in sublayers(model):
        activation = vars(part).get("activation")
        if activation is _silu:
            part.activation = keras.activations.silu  # its own gradient keeps it apart
        elif _is_conv_2d(part) and activation in _SLOW_FUSED:
            part.activation = _Apart(activation)
        if has_graph(part):
            graph = Graph(part)
            for call in graph.calls:
                conv, users = call.operation, graph.consumers(call.outputs[0])
                if _is_conv_2d(conv) and any(_is_slow(c.operation) for c in users):
                    conv.activation = _Apart(conv.activation)


class _Apart:
    """An activation that is not fused with what makes its input."""

    def __init__(self, activation: Any) -> None:
        self._activation = activation

    def __call__(self, x: Any) -> Any:
        import tensorflow as tf

        # TensorFlow optimises an identity away, but not this.
        return self._activation(tf.ensure_shape(x, x.shape))


def _is_slow(layer: Any) -> bool:
    """Whether `layer` is an activation alone that is slow when fused."""
    kind = kind_of(layer)
    if kind.name == "activation":
        return layer.activation in _SLOW_FUSED
    relu6 = kind.activation == "relu" and getattr(layer, "max_value", None) == 6
    return relu6 or kind.activation in ("relu6", "elu")


def _is_conv_2d(layer: Any, *others: str) -> bool:
    return is_kind(layer, "convolution", *others) and layer.rank == 2


_SLOW_FUSED = (keras.activations.relu6, keras.activations.elu)


def _silu(x: Any) -> Any:
    return x * keras.ops.sigmoid(x)


def _merge_zero_padding(graph: Graph) -> None:
    times = [id(call.operation) for call in graph.calls]
    for call in graph.calls:
        pad = call.operation
        if not is_kind(pad, "zero_padding") or graph.is_output(call.outputs[0]):
            continue
        consumers = graph.consumers(call.outputs[0])
        once = all(times.count(id(c.operation)) == 1 for c in (call, *consumers))
        if once and len(consumers) == 1 and _pads_like_same(call, consumers[0]):
            pad.padding = ((0, 0), (0, 0))
            consumers[0].operation.padding = "same"


def _pads_like_same(call: Call, consumer: Call) -> bool:
    """Whether "same" in the convolution would add what the padding before it adds."""
    pad, conv = call.operation, consumer.operation
    if not _is_conv_2d(conv, "depthwise_convolution"):
        return False
    if conv.padding != "valid" or {pad.data_format, conv.data_format} != {"channels_last"}:
        return False
    sizes = call.inputs[0].shape[1:3]
    if None in sizes:
        return False
    places = zip(sizes, conv.kernel_size, conv.strides, conv.dilation_rate, strict=True)
    wanted = []
    for size, kernel, stride, dilation in places:
        reach = (kernel - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        wanted.append((total // 2, total - total // 2))
    return tuple(wanted) == tuple(tuple(p) for p in pad.padding)
