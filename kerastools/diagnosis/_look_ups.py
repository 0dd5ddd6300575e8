"""Which layers take numbers as places in a table."""

from typing import Any

import keras

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import is_kind


def looks_up(operation: Any) -> bool:
    """Whether a layer, or one inside it, takes numbers as places in a table."""
    return isinstance(operation, keras.Layer) and any(
        is_kind(layer, "look_up", "encoding") for layer in sublayers(operation)
    )
