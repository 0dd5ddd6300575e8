"""Small exact changes that let TensorFlow fuse more."""

from typing import Any

import keras

from kerastools._core._graph import Call, Graph, has_graph, sublayers


def polish(model: Any) -> None:
    """Changes a model that nothing else uses, in place; what it computes stays.

    Zero padding before a convolution goes where TensorFlow's "same" pads alike, and silu becomes
    x · σ(x), which has no gradient of its own that would keep it from being fused.
    """
    for part in sublayers(model):
        if has_graph(part):
            _merge_zero_padding(Graph(part))
        if getattr(part, "activation", None) is keras.activations.silu:
            part.activation = _silu


def _silu(x: Any) -> Any:
    return x * keras.ops.sigmoid(x)


def _merge_zero_padding(graph: Graph) -> None:
    times = [id(call.operation) for call in graph.calls]
    for call in graph.calls:
        pad = call.operation
        if type(pad) is not keras.layers.ZeroPadding2D or graph.is_output(call.outputs[0]):
            continue
        consumers = graph.consumers(call.outputs[0])
        once = all(times.count(id(c.operation)) == 1 for c in (call, *consumers))
        if once and len(consumers) == 1 and _pads_like_same(call, consumers[0]):
            pad.padding = ((0, 0), (0, 0))
            consumers[0].operation.padding = "same"


def _pads_like_same(call: Call, consumer: Call) -> bool:
    """Whether "same" in the convolution would add what the padding before it adds."""
    pad, conv = call.operation, consumer.operation
    if type(conv) not in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
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
