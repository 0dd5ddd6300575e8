"""Slots of small variables of one shape, kept in one variable and updated in one go."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools.optimizers._base.per_variable import is_half

# Above, what it costs to put gradients together outweighs the operations that it saves.
LARGEST = 2**14
# Below, the operations of the stack itself outweigh them.
FEWEST = 8


class Stack:
    """Some variables of one shape and type, by their places; each slot holds all of theirs."""

    def __init__(self, indices: Sequence[int], shape: tuple[int, ...], dtype: str) -> None:
        self.indices = list(indices)
        self.shape = shape
        self.dtype = dtype
        self.slots: list[Any] = []

    def add_slot(self, name: str) -> dict[int, Callable[..., "Row"]]:
        """Creates a slot of zeros; returns, by place, what makes each variable's row of it."""
        slot = keras.Variable(
            keras.initializers.Zeros(),
            shape=(len(self.indices), *self.shape),
            dtype=self.dtype,
            trainable=False,
            name=f"stacked_{name}",
        )
        self.slots.append(slot)
        return {i: partial(Row, slot, row) for row, i in enumerate(self.indices)}

    def number(self, value: Any) -> Any:
        """Returns a number of the update as it stands beside a slot: a scalar, or one per row."""
        if len(value.shape) == 0:
            return value
        return self.column(ops.take(value, np.array(self.indices, "int32"), axis=0))

    def column(self, numbers: Any) -> Any:
        """Returns one number per row as it stands beside a slot."""
        return ops.reshape(numbers, (-1, *(1 for _ in self.shape)))


class Row(keras.Variable):
    """The slot of one variable, which is a row of a stack's slot.

    It can be read, assigned, saved and loaded as any variable; a file does not tell them apart.
    TensorFlow only. Keras has no public way to make a variable without storage of its own;
    `tests/optimizers/base/test_slot_rows.py` fails when these hooks move.
    """

    def __init__(self, stack: Any, row: int, name: str) -> None:
        self._stack = stack
        self._row = row
        shape, dtype = tuple(stack.shape)[1:], stack.dtype
        zeros = keras.initializers.Zeros()
        super().__init__(zeros, shape=shape, dtype=dtype, trainable=False, name=name)

    @property
    def value(self) -> Any:
        """The numbers of this row, a tensor."""
        return self._stack.value[self._row]

    def _initialize_with_initializer(self, initializer: Any) -> None:
        self._value = None

    def _direct_assign(self, value: Any) -> None:
        self._stack.value[self._row].assign(ops.cast(value, self._stack.dtype))

    @property
    def _shared_name(self) -> str:
        return self.name

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {"VARIABLE_VALUE": self.value}

    def _restore_from_tensors(self, restored_tensors: dict[str, Any]) -> Any:
        return self.assign(restored_tensors["VARIABLE_VALUE"])


def stacks_of(variables: Sequence[Any]) -> list[Stack]:
    """Returns the stacks that are worth making of `variables`."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, variable in enumerate(variables):
        small = np.prod(variable.shape, dtype=int) <= LARGEST
        alone = is_half(variable) or getattr(variable, "overwrite_with_gradient", False)
        if small and not alone:
            key = tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype)
            alike.setdefault(key, []).append(i)
    return [Stack(indices, *key) for key, indices in alike.items() if len(indices) >= FEWEST]
