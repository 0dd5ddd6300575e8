"""Penalties and max-norm written into the configuration of a layer."""

from typing import Any

import keras

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.fans import incoming_axes
from kerastools.constraints import MaxNorm

# Where the configuration of a wrapped layer or cell stands, and the attribute that holds it.
_INSIDE = {
    "layer": ("forward_layer", "layer"),
    "backward_layer": ("backward_layer",),
    "cell": ("cell",),
}


def penalised(layer: Any, l1: float, l2: float, max_norm: float | None) -> Any:
    """Returns the configuration of `layer` with what was asked for, or `None` if nothing fits."""
    config = layer.get_config()
    penalty = keras.regularizers.L1L2(l1, l2) if l1 or l2 else None
    return config if _write(layer, config, penalty, max_norm) else None


def _write(layer: Any, config: dict[str, Any], penalty: Any, max_norm: float | None) -> bool:
    """Changes `config` and returns whether there was something to change."""
    written = False
    for key, attributes in _INSIDE.items():
        inner = config.get(key)
        if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
            held = next(getattr(layer, a) for a in attributes if hasattr(layer, a))
            written |= _write(held, inner["config"], penalty, max_norm)
    if written:
        return True
    for prefix, (axes, is_look_up) in _kernels(layer, config).items():
        if penalty is not None and not is_look_up:
            config[f"{prefix}_regularizer"] = keras.saving.serialize_keras_object(penalty)
            written = True
        if max_norm is not None:
            constraint = MaxNorm(max_norm, axes)
            config[f"{prefix}_constraint"] = keras.saving.serialize_keras_object(constraint)
            written = True
    return written


def _kernels(layer: Any, config: dict[str, Any]) -> dict[str, tuple[Any, bool]]:
    """Returns, by the prefix in the configuration, the axes of each kernel and if it is looked up.

    Keras names them `kernel_constraint`, but `recurrent_constraint` for `recurrent_kernel`, and
    `depthwise_constraint` for the `kernel` of a depthwise convolution.
    """
    found: dict[str, tuple[Any, bool]] = {}
    # LSTM and the like describe their cell as if it were their own.
    holder = layer.cell if "cell" not in config and hasattr(layer, "cell") else layer
    for name, axes in incoming_axes(holder).items():
        prefixes = (name, name.removesuffix("_kernel"), "depthwise")
        prefix = next((p for p in prefixes if f"{p}_constraint" in config), None)
        if prefix:
            found[prefix] = (axes, name == "embeddings")
    if not found and "kernel_constraint" in config:
        # One constraint for the projections of an attention layer, which lie differently.
        by_shape = {
            "x".join(map(str, inner.kernel.shape)): inner_axes["kernel"]
            for inner in sublayers(layer)[1:]
            if "kernel" in (inner_axes := incoming_axes(inner))
        }
        if by_shape:
            found["kernel"] = (by_shape, False)
    return found
