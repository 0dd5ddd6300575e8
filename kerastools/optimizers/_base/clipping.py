"""Gradient clipping that does not overflow."""

from typing import Any

import keras
from keras import ops


def clip_by_value(g: Any, limit: Any) -> Any:
    """Returns `g` with each element in [−limit, limit]."""
    limit = ops.cast(limit, g.dtype)
    return ops.clip(g, -limit, limit)


def clip_to_norm(gradients: list[Any], limit: Any, length: Any = None) -> list[Any]:
    """Returns `gradients` · limit / max(‖gradients‖, limit), with one norm over all of them.

    The norm can be given as `length`, where it is known.
    """
    length = norm(gradients) if length is None else length
    limit = ops.cast(limit, length.dtype)
    factor = limit / ops.maximum(length, limit)
    # An infinite limit is no limit, and inf / inf no number.
    factor = ops.where(ops.isinf(limit), ops.ones_like(factor), factor)
    return [g * ops.cast(factor, g.dtype) for g in gradients]


def clip_units(g: Any, theta: Any, limit: Any) -> Any:
    """Returns `g` with each unit's gradient at most `limit` times as long as the unit's weights.

    A unit is a slice along the last axis; a vector or a scalar is one unit. Weights shorter than
    1e-3 count as that long, or they could never leave 0.
    """
    axis = tuple(range(max(len(g.shape) - 1, min(len(g.shape), 1))))
    length, weights = _length(g, axis), _length(theta, axis)
    allowed = ops.cast(limit, g.dtype) * ops.maximum(weights, 1e-3)
    return g * ops.where(length > allowed, allowed / length, ops.ones_like(length))


def _length(x: Any, axis: tuple[int, ...]) -> Any:
    largest = ops.max(ops.abs(x), axis=axis, keepdims=True, initial=0)
    unit = ops.where(largest > 0, largest, ops.ones_like(largest))
    return unit * ops.sqrt(ops.sum(ops.square(x / unit), axis=axis, keepdims=True))


def norm(gradients: list[Any]) -> Any:
    """Returns √Σg² over all gradients, in float32 at least.

    The squares are those of g / max|g|: 1e30 has a norm in float32 though its square has none.
    """
    wide = [ops.cast(g, keras.backend.result_type(g.dtype, "float32")) for g in gradients]
    largest = ops.max(ops.stack([ops.max(ops.abs(g), initial=0) for g in wide]))
    unit = ops.where(largest > 0, largest, ops.ones_like(largest))
    return unit * ops.sqrt(sum(ops.sum(ops.square(g / unit)) for g in wide))
