"""Numbers of an update, one for each variable, and the type in which it is computed."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from kerastools.optimizers._base.hyperparameter import Average


class VariableView(SimpleNamespace):
    """Numbers of an update as some of the variables see them, worked out when first asked for.

    `pick` is given a number, a scalar or a vector over all variables, and returns theirs in
    `dtype`.
    """

    def __init__(self, numbers: SimpleNamespace, pick: Callable[[Any], Any], dtype: str) -> None:
        super().__init__(_all=numbers, _pick=pick, _dtype=dtype)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._all, name)
        if isinstance(value, Average):
            picked: Any = Average(self._cast(self._pick(value.complement)))
        else:
            picked = value if value is None else self._cast(self._pick(value))
        setattr(self, name, picked)
        return picked

    def _cast(self, value: Any) -> Any:
        kept = keras.backend.standardize_dtype(value.dtype) in (self._dtype, "bool")
        return value if kept else ops.cast(value, self._dtype)


class UnstackCache:
    """Picks one number out of a vector or column of all, which is taken apart only once."""

    def __init__(self, length: int) -> None:
        self._length = length
        # With the vector itself, or its identity could be another's later.
        self._parts: dict[int, tuple[Any, list[Any]]] = {}

    def at(self, index: int, value: Any) -> Any:
        """Returns the number at `index`."""
        if len(value.shape) == 0:
            return value
        if id(value) not in self._parts:
            vector = ops.reshape(value, (-1,)) if len(value.shape) > 1 else value
            self._parts[id(value)] = value, list(ops.unstack(vector, self._length))
        return self._parts[id(value)][1][index]


def is_half(variable: Any) -> bool:
    """Returns whether `variable` has a type of half precision."""
    return keras.backend.standardize_dtype(variable.dtype) in ("float16", "bfloat16")


def wide(variable: Any) -> str:
    """Returns the type in which `variable` is updated: its own, but float32 at least."""
    return keras.backend.result_type(variable.dtype, "float32")
