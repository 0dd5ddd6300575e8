"""Checks whether the outputs of layers can be cached."""

from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import parent_kind


class CannotCacheError(ValueError):
    """Raised if training on cached features would differ from training without a cache."""


def reason_against(operation: Any) -> str | None:
    """Returns why the outputs of `operation` change during training, as text, or `None`."""
    if not isinstance(operation, keras.Layer):
        return None
    for layer in sublayers(operation):
        what = f'layer "{layer.name}" of type {type(layer).__name__}'
        if parent_kind(layer).moving_statistics and layer.trainable:
            return (
                f"{what} is not frozen and normalizes by the statistics of each batch. Set "
                "trainable=False on it"
            )
        if _draws(layer):
            return (
                f"{what} is random in every step, frozen or not. Move it above the cut or out of "
                "the model, or set its rate to 0"
            )
        if getattr(layer, "activity_regularizer", None) is not None:
            return f"{what} adds to the loss. Remove its activity_regularizer"
    if operation.trainable_weights:
        return f'layer "{operation.name}" trains. Set trainable=False on it'
    return None


def reason_seen(prefix: keras.Model, x: Any) -> str | None:
    """Returns how a training step of `prefix` on `x` differs from inference, as text, or `None`.

    For custom layers. Nothing is changed.
    """
    with keras.StatelessScope():
        expected = keras.ops.convert_to_numpy(prefix(x, training=False))
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in prefix.variables]
    with keras.StatelessScope(collect_losses=True) as scope:
        got = keras.ops.convert_to_numpy(prefix(x, training=True))
        num_losses = len(scope.losses)
    for variable, old in zip(prefix.variables, before, strict=True):
        new = scope.get_current_value(variable)
        if new is not None and not np.array_equal(keras.ops.convert_to_numpy(new), old):
            return f"a training step changes the state {variable.path!r}"
    if num_losses:
        return "a layer adds to the loss (add_loss), which cached features would leave out"
    if not np.array_equal(got, expected, equal_nan=True):
        return "its outputs differ between training=True and training=False"
    return None


def _draws(layer: Any) -> bool:
    rates = [getattr(layer, name, None) for name in ("dropout", "recurrent_dropout")]
    if rates == [0, 0]:
        return False  # Recurrent cells have an unused seed generator.
    return any(isinstance(v, keras.random.SeedGenerator) for v in vars(layer).values())
