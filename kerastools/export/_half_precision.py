"""A model that computes in bfloat16."""

from typing import Any

import keras

from kerastools._core.graph.calls import Graph, sublayers
from kerastools._core.graph.kinds import parent_kind


def compute_in_bfloat16(model: Any) -> None:
    """Lets the float32 layers of a model that nothing else uses compute in bfloat16, in place.

    Weights stay float32, as in Keras's policy "mixed_bfloat16". So do the layers that make the
    outputs, where rounding would be seen, and `Normalization`, whose inputs may be far from zero.
    """
    kept = {id(layer) for layer in Graph(model).output_layers}
    for layer in sublayers(model):
        exact = id(layer) in kept or parent_kind(layer).name == "feature_normalization"
        if (
            not exact
            and not isinstance(layer, keras.Model)
            and layer.dtype_policy.name == "float32"
        ):
            layer.dtype_policy = "mixed_bfloat16"
