"""Mutable hyperparameters of regularizers and constraints: L1 and L2 factors, MaxNorm's bound."""

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
PENALTY_ARGUMENTS = _REGULARIZERS | _CONSTRAINTS


def penalties(model: Any) -> list[tuple[Any, str]]:
    """Returns owner and name of each hyperparameter of the regularizers and constraints."""
    found: dict[tuple[int, str], tuple[Any, str]] = {}
    for variable in model.variables:
        for holder in (variable.regularizer, variable.constraint):
            for name in PENALTY_ARGUMENTS.get(type(_original(holder)), ()):
                found[id(holder), name] = (holder, name)
    return list(found.values())


def penalty_values(model: Any) -> np.ndarray:
    """Returns the values of `penalties(model)`."""
    return np.array([float(getattr(*pair)) for pair in penalties(model)], "float32")


def mutable_penalties(model: Any) -> set[int]:
    """Returns the ids of the regularizers and constraints that `MutablePenalties` can make mutable.

    Those of variables, on TensorFlow. On JAX the compiled step takes their values for constants.
    """
    if keras.backend.backend() != "tensorflow":
        return set()
    return {id(_original(holder)) for holder, _ in penalties(model)}


def _original(holder: Any) -> Any:
    return holder.holder if isinstance(holder, _MutablePenalty) else holder


class MutablePenalties:
    """Makes the hyperparameters of a model's regularizers and constraints mutable.

    Keras reads them when it traces the step. Here the model's variables get regularizers and
    constraints that read them from one variable; the layers keep those they were given.
    """

    def __init__(self, model: Any) -> None:
        pairs = penalties(model) if mutable_penalties(model) else []
        self.values = keras.Variable(penalty_values(model), trainable=False) if pairs else None
        position = {(id(holder), name): i for i, (holder, name) in enumerate(pairs)}
        for variable in model.variables:
            for kind in ("regularizer", "constraint"):
                holder = getattr(variable, kind)
                names = PENALTY_ARGUMENTS.get(type(holder), ())
                if names and pairs:
                    index = {name: position[id(holder), name] for name in names}
                    setattr(variable, kind, _MutablePenalty(holder, index, self.values))

    def copy_from(self, model: Any) -> None:
        """Copies the values of another model of the same structure."""
        if self.values is not None:
            self.values.assign(penalty_values(model))


class _MutablePenalty:
    def __init__(self, holder: Any, index: dict[str, int], values: Any) -> None:
        self.holder = holder
        self.index = index
        self.values = values

    def __call__(self, w: Any) -> Any:
        now = {name: self.values[i] for name, i in self.index.items()}
        if type(self.holder) in _REGULARIZERS:
            return penalty(w, now)
        return with_values(self.holder, now)(w)


def penalty(w: Any, factors: dict[str, Any]) -> Any:
    """Returns l1 Σ|w| + l2 Σw²."""
    terms = []
    if "l1" in factors:
        terms.append(ops.cast(factors["l1"], w.dtype) * ops.sum(ops.abs(w)))
    if "l2" in factors:
        terms.append(ops.cast(factors["l2"], w.dtype) * ops.sum(ops.square(w)))
    return sum(terms)


def with_values(constraint: Any, values: dict[str, Any], **attributes: Any) -> Any:
    """Returns a copy of `constraint` whose attributes are these tensors."""
    twin = copy.copy(constraint)
    for name, value in (values | attributes).items():
        setattr(twin, name, value)
    return twin
