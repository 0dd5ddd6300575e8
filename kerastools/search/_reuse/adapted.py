"""What layers that prepare data learned from it in `adapt`."""

from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.rebuild import copy_operation, copy_state, layer_from_config

_LOOKUPS = (
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
    keras.layers.TextVectorization,
)


def vocabulary_of(layer: Any) -> dict[str, Any]:
    """Returns what `get_config` of a lookup layer leaves out: the vocabulary it was adapted to."""
    if not isinstance(layer, _LOOKUPS) or layer.get_config()["vocabulary"] is not None:
        return {}
    words = np.asarray(layer.get_vocabulary(include_special_tokens=False)).tolist()
    if not words:
        return {}
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    if "idf_weights" not in store:
        return {"vocabulary": words}
    special = layer.vocabulary_size() - len(words)
    weights = store["idf_weights"][special : special + len(words)]
    return {"vocabulary": words, "idf_weights": weights.tolist()}


def adapted_like(layer: Any, caller: str) -> Any:
    """Returns a new layer of the configuration of `layer`, adapted as that and its parts are.

    Raises:
        ValueError: If it cannot be made, or comes back with other variables.
    """
    found = vocabulary_of(layer)
    new = layer_from_config(layer, found, caller) if found else copy_operation(layer, caller)
    parts = sublayers(layer)
    if any(hasattr(part, "adapt") for part in parts):
        for part, twin in zip(parts, sublayers(new), strict=True):
            if hasattr(part, "adapt") and part.built:
                if not twin.built:
                    twin.build_from_config(part.get_build_config())
                copy_state(part, twin, caller)
    return new
