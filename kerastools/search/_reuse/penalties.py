"""Mutable hyperparameters of regularizers and constraints."""

import copy
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools.constraints import MaxNorm

_REGULARIZERS: dict[type, tuple[str, ...]] = {
    keras.regularizers.L1: ("l1",),
    keras.regularizers.L2: ("l2",),
    keras.regularizers.L1L2: ("l1", "l2"),
}
_CONSTRAINTS: dict[type, tuple[str, ...]] = {
    keras.constraints.MaxNorm: ("max_value",),
    MaxNorm: ("max_value",),
}
NUMBERS = _REGULARIZERS | _CONSTRAINTS


def penalties(model: Any) -> list[tuple[Any, str]]:
    """Returns the regularizers and constraints of the variables, each with its numbers' names."""
    found: dict[tuple[int, str], tuple[Any, str]] = {}
    for variable in model.variables:
        for holder in (variable.regularizer, variable.constraint):
            for name in NUMBERS.get(type(_given(holder)), ()):
                found[id(holder), name] = (holder, name)
    return list(found.values())


def numbers_of(model: Any) -> np.ndarray:
    """Returns the numbers of `penalties(model)`."""
    return np.array([float(getattr(*pair)) for pair in penalties(model)], "float32")


def live_holders(model: Any) -> set[int]:
    """Returns the identities of the regularizers and constraints whose numbers can be live.

    Those of variables. On JAX the compiled step would take their numbers for constants.
    """
    if keras.backend.backend() != "tensorflow":
        return set()
    return {id(_given(holder)) for holder, _ in penalties(model)}


def _given(holder: Any) -> Any:
    return holder.holder if isinstance(holder, _Live) else holder


class LivePenalties:
    """Makes the numbers of a model's regularizers and constraints variables of its compiled step.

    Keras reads them when it traces the step. Here the model's variables get regularizers and
    constraints that read them from one vector; the layers keep those they were given.
    """

    def __init__(self, model: Any) -> None:
        pairs = penalties(model) if live_holders(model) else []
        self.numbers = keras.Variable(numbers_of(model), trainable=False) if pairs else None
        place = {(id(holder), name): i for i, (holder, name) in enumerate(pairs)}
        for variable in model.variables:
            for kind in ("regularizer", "constraint"):
                holder = getattr(variable, kind)
                names = NUMBERS.get(type(holder), ())
                if names and pairs:
                    index = {name: place[id(holder), name] for name in names}
                    setattr(variable, kind, _Live(holder, index, self.numbers))

    def take(self, model: Any) -> None:
        """Takes over the numbers of another model of the same structure."""
        if self.numbers is not None:
            self.numbers.assign(numbers_of(model))


class _Live:
    def __init__(self, holder: Any, index: dict[str, int], numbers: Any) -> None:
        self.holder = holder
        self.index = index
        self.numbers = numbers

    def __call__(self, w: Any) -> Any:
        now = {name: self.numbers[i] for name, i in self.index.items()}
        if type(self.holder) in _REGULARIZERS:
            return penalty(w, now)
        return with_numbers(self.holder, now)(w)


def penalty(w: Any, numbers: dict[str, Any]) -> Any:
    """Returns l1 Σ|w| + l2 Σw²."""
    terms = []
    if "l1" in numbers:
        terms.append(ops.cast(numbers["l1"], w.dtype) * ops.sum(ops.abs(w)))
    if "l2" in numbers:
        terms.append(ops.cast(numbers["l2"], w.dtype) * ops.sum(ops.square(w)))
    return sum(terms)


def with_numbers(constraint: Any, numbers: dict[str, Any], **more: Any) -> Any:
    """Returns `constraint` with tensors for its numbers."""
    twin = copy.copy(constraint)
    for name, value in (numbers | more).items():
        setattr(twin, name, value)
    return twin
