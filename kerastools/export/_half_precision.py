"""A copy of a model that computes in bfloat16."""

from typing import Any

import keras

from kerastools._core.graph.calls import Graph, sublayers
from kerastools._core.graph.kinds import parent_kind


def in_bfloat16(model: Any, copied: bool) -> Any:
    """Returns `model`, or a copy unless it is one, with float32 layers computing in bfloat16.

    Weights stay float32, as in Keras's policy "mixed_bfloat16". So do the layers that make the
    outputs, where rounding would be seen, and `Normalization`, whose inputs may be far from zero.
    """
    if not copied:
        original, model = model, keras.models.clone_model(model)
        model.set_weights(original.get_weights())
    kept = {id(layer) for layer in Graph(model).output_layers}
    for layer in sublayers(model):
        exact = id(layer) in kept or parent_kind(layer).name == "standardization"
        if (
            not exact
            and not isinstance(layer, keras.Model)
            and layer.dtype_policy.name == "float32"
        ):
            layer.dtype_policy = "mixed_bfloat16"
    return model
