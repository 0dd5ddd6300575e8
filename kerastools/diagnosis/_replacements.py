"""The layers and settings that a repair puts in the place of others."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import read_graph
from kerastools._core.graph.fans import incoming_axes
from kerastools.constraints import MaxNorm
from kerastools.diagnosis._look_ups import looks_up
from kerastools.diagnosis._subject import Subject


def normalizations(subject: Subject, guilty: Sequence[str]) -> dict[str, Any]:
    """Returns an adapted `Normalization` for each input that the guilty layers read as numbers.

    An input that a layer looks up in a table is never one.
    """
    graph = read_graph(subject.model, "repair")
    top = {path.split("/")[0] for path in guilty}
    found = {}
    arrays = graph.by_input(subject.x)
    for tensor, layer, x in zip(graph.inputs, graph.input_layers, arrays, strict=True):
        if x is None or x.dtype.kind not in "fiub" or "int" in str(layer.dtype):
            continue
        readers = _readers(graph, tensor)
        if not top & {call.path for call in readers} or any(looks_up(c.operation) for c in readers):
            continue
        # One mean and variance for all positions of an image or a sequence, channel by channel.
        x = x.astype("float64").reshape(-1, x.shape[-1]) if x.ndim > 1 else x.astype("float64")
        variance = x.var(axis=0)
        # A constant feature becomes 0.
        found[layer.name] = keras.layers.Normalization(
            axis=-1, mean=x.mean(axis=0), variance=np.where(variance > 0, variance, 1.0)
        )
    return found


def _readers(graph: Any, tensor: Any) -> list[Any]:
    """Returns the first calls with weights that a tensor reaches, directly or through others."""
    found = []
    for call in graph.consumers(tensor):
        if getattr(call.operation, "weights", None):
            found.append(call)
        else:
            found += [reader for output in call.outputs for reader in _readers(graph, output)]
    return found


def scaled_regularizers(layer: Any, factor: float) -> dict[str, Any]:
    """Returns the L1 and L2 regularizers of a layer's configuration, multiplied by `factor`."""
    changes = {}
    for name, held in layer.get_config().items():
        if name.endswith("_regularizer") and isinstance(held, dict):
            numbers = {k: v * factor for k, v in held["config"].items() if k in ("l1", "l2")}
            changes[name] = {**held, "config": {**held["config"], **numbers}}
    return changes


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
