"""Numbers of an update, one for each variable, and the type in which it is computed."""

from typing import Any

import keras
from keras import ops

from kerastools._core._hyperparameter import Average


def rows(value: Any, length: int) -> list[Any]:
    """Returns `length` numbers: those of a vector, or a scalar again and again."""
    if isinstance(value, Average):
        if len(value.complement.shape) == 0:
            return [value] * length
        return [Average(c) for c in rows(value.complement, length)]
    if value is None or len(value.shape) == 0:
        return [value] * length
    return list(ops.unstack(value, length))


def cast_number(value: Any, dtype: str) -> Any:
    """Returns a number of the update in `dtype`; `None` and flags as they are."""
    if isinstance(value, Average):
        complement = cast_number(value.complement, dtype)
        return value if complement is value.complement else Average(complement)
    if value is None or keras.backend.standardize_dtype(value.dtype) in (dtype, "bool"):
        return value
    return ops.cast(value, dtype)


def is_half(variable: Any) -> bool:
    """Returns whether `variable` has a type of half precision."""
    return keras.backend.standardize_dtype(variable.dtype) in ("float16", "bfloat16")


def wide(variable: Any) -> str:
    """Returns the type in which `variable` is updated: its own, but float32 at least."""
    return keras.backend.result_type(variable.dtype, "float32")
