"""The state that optimizers keep per variable; that of small variables of one shape is stacked."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import (
    Row,
    before_training,
    known_variables,
    slot_attributes,
)

# Above, what it costs to put gradients together outweighs the operations that it saves.
LARGEST = 2**14
# Below, the operations of the stack itself outweigh them.
FEWEST = 8


def optimizer_tree(optimizer: Any) -> Iterator[Any]:
    """Yields `optimizer` and the optimizers that it wraps, the outermost first."""
    yield optimizer
    for value in list(vars(optimizer).values()):
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, keras.optimizers.Optimizer) and item is not optimizer:
                yield from optimizer_tree(item)


def slot_variables(optimizer: Any) -> list[Any]:
    """Returns every slot of `optimizer`, and of those that it wraps, in a steady order."""
    return [
        slot
        for part in optimizer_tree(optimizer)
        for value in slot_attributes(part).values()
        if are_slots(value, len(known_variables(part)))
        for slot in value
        if slot is not None
    ] + [slot for part in optimizer_tree(optimizer) for slot in vector_slots(part)]


def vector_slots(optimizer: Any) -> list[Any]:
    """Returns the variables of `optimizer` that hold one number per variable."""
    names = [f"_{name}_slots" for name in getattr(optimizer, "_scalar_slots", ())]
    return [
        getattr(optimizer, name) for name in [*names, "_group_slots"] if name in vars(optimizer)
    ]


def are_slots(value: Any, num_variables: int) -> bool:
    """Whether `value` is a list of one slot, or None, for each variable."""
    return (
        isinstance(value, list | tuple)
        and len(value) == num_variables
        and all(slot is None or isinstance(slot, keras.Variable) for slot in value)
    )


def is_half(variable: Any) -> bool:
    """Returns whether `variable` has a type of half precision."""
    return keras.backend.standardize_dtype(variable.dtype) in ("float16", "bfloat16")


def wide(variable: Any) -> str:
    """Returns the type in which `variable` is updated: its own, but float32 at least."""
    return keras.backend.result_type(variable.dtype, "float32")


def filled_with(number: float) -> Callable[..., Any]:
    """Returns an initializer; Keras's `Constant` would round to float32 on the way to float64."""
    return lambda shape, dtype: ops.convert_to_tensor(np.full(shape, number), dtype=dtype)


def holding(values: Any) -> Callable[..., Any]:
    """Returns an initializer with the values of an array or of a variable.

    A slot that is assigned after it was made would lose what a checkpoint has restored to it.
    """

    def initializer(shape: Any, dtype: Any) -> Any:
        with before_training():
            value = ops.convert_to_tensor(values)
            return ops.copy(ops.cast(value, dtype))

    return initializer


class Stack:
    """Some variables of one shape and type, by their places; each slot holds all of theirs."""

    def __init__(self, indices: Sequence[int], shape: tuple[int, ...], dtype: str) -> None:
        self.indices = list(indices)
        self.shape = shape
        self.dtype = dtype
        self.slots: list[Any] = []

    def add_slot(self, name: str, initializer: Any) -> dict[int, Callable[..., Row]]:
        """Creates a slot; returns, by place, what makes each variable's row of it."""
        slot = keras.Variable(
            initializer,
            shape=(len(self.indices), *self.shape),
            dtype=self.dtype,
            trainable=False,
            name=f"stacked_{name}",
        )
        self.slots.append(slot)
        rows = enumerate(self.indices)
        return {i: partial(Row, slot, row, initializer=initializer) for row, i in rows}

    def number(self, value: Any) -> Any:
        """Returns a number of the update as it stands next to a slot: a scalar, or one per row."""
        if len(value.shape) == 0:
            return value
        return self.column(ops.take(value, np.array(self.indices, "int32"), axis=0))

    def column(self, numbers: Any) -> Any:
        """Returns one number per row as it stands next to a slot."""
        return ops.reshape(numbers, (-1, *(1 for _ in self.shape)))


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
