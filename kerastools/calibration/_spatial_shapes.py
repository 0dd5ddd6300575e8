"""On how many positions each convolution of a model works."""

from typing import Any

from kerastools._core.graph.calls import calls


def spatial_shapes(model: Any) -> dict[int, tuple[int, ...]]:
    """Returns, by id of the layer, the positions of what each convolution is first called on.

    Left out are those of unknown size.
    """
    found: dict[int, tuple[int, ...]] = {}
    for call in calls(model):
        layer = call.operation
        if hasattr(layer, "kernel_size"):
            shape = tuple(call.inputs[0].shape[1:])
            channels_last = layer.data_format == "channels_last"
            positions = shape[:-1] if channels_last else shape[1:]
            if None not in positions and len(positions) == len(layer.kernel_size):
                found.setdefault(id(layer), positions)
    return found
