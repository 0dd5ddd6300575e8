"""The layers and settings that a repair puts in the place of others."""

from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import read_graph
from kerastools._core.graph.fans import incoming_axes
from kerastools.constraints import MaxNorm
from kerastools.diagnosis._subject import Subject


def normalizations(subject: Subject) -> dict[str, Any]:
    """Returns an adapted `Normalization` for each floating input that is no image of tokens."""
    graph = read_graph(subject.model, "repair")
    found = {}
    for layer, x in zip(graph.input_layers, graph.by_input(subject.x), strict=True):
        if x.dtype.kind != "f" and "int" in str(layer.dtype):
            continue
        # One mean and variance for all positions of an image or a sequence, channel by channel.
        x = x.astype("float64").reshape(-1, x.shape[-1]) if x.ndim > 1 else x.astype("float64")
        variance = x.var(axis=0)
        # A constant feature becomes 0.
        found[layer.name] = keras.layers.Normalization(
            axis=-1, mean=x.mean(axis=0), variance=np.where(variance > 0, variance, 1.0)
        )
    return found


def mended_constraints(layer: Any) -> dict[str, Any]:
    """Returns the constraints of a layer's configuration, along each unit's incoming weights."""
    changes = {}
    for name, axes in incoming_axes(layer).items():
        for prefix in (name, name.removesuffix("_kernel"), "depthwise"):
            held = getattr(layer, f"{prefix}_constraint", None)
            if held is None:
                continue
            config = held.get_config()
            if "max_value" in config and "min_value" not in config:
                constraint = MaxNorm(config["max_value"], axes)
            else:
                constraint = type(held).from_config({**config, "axis": list(axes)})
            changes[f"{prefix}_constraint"] = keras.saving.serialize_keras_object(constraint)
            break
    return changes
