"""Which group each variable of an optimizer is in, and the hyperparameters of the groups."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import before_training
from kerastools.optimizers._base.hyperparameter import DecayRate, Hyperparameter, check

_PREFIX = "_group_"


def number_names(groups: Sequence[Any]) -> list[str]:
    """Returns the names of the numbers that any of the groups sets."""
    return sorted({name for group in groups for name in group.numbers})


def assign_groups(
    optimizer: Any, groups: Sequence[Any], variables: Sequence[Any], declared: dict[str, Any]
) -> np.ndarray | None:
    """Returns each variable's group, counted from 1, or 0; makes the variables of the numbers.

    Raises:
        ValueError: If a group matches no variable, two match one, or a number cannot be grouped.
    """
    if not groups:
        return None
    for group in groups:
        for name, number in group.numbers.items():
            _check_number(optimizer, name, number, declared)
    matches = [[group.matches(v) for v in variables] for group in groups]
    for group, matched in zip(groups, matches, strict=True):
        if not any(matched) and not group.may_be_empty():
            paths = ", ".join(v.path for v in variables[:8])
            raise ValueError(
                f"{group} matches none of the {len(variables)} trainable variables: {paths}"
                f"{', ...' if len(variables) > 8 else ''}. Name a layer that trains, or leave the "
                "group out."
            )
    for i, variable in enumerate(variables):
        both = [group for group, matched in zip(groups, matches, strict=True) if matched[i]]
        if len(both) > 1:
            raise ValueError(
                f"{both[0]} and {both[1]} both match {variable.path!r}. Each variable can be in "
                "one group: make one of them narrower."
            )
    for name in number_names(groups):
        _make_variable(optimizer, groups, name, declared)
    return np.array([_first(row) for row in zip(*matches, strict=True)], "int32")


def group_numbers(optimizer: Any, groups: Sequence[Any], dtype: str) -> dict[str, Any]:
    """Returns, for each number that groups set, a vector over the variables; NaN where none is."""
    return {
        name: ops.take(
            ops.cast(getattr(optimizer, _PREFIX + name), dtype), optimizer._group_slots, axis=0
        )
        for name in number_names(groups)
    }


def set_group_number(
    optimizer: Any, groups: Sequence[Any], index: int, name: str, number: Any, declared: Any
) -> Any:
    """Sets one number of one group, in the compiled step too; returns the group as it is now."""
    _check_number(optimizer, name, number, declared)
    if not optimizer.built:
        return groups[index].with_number(name, number)
    if name not in number_names(groups):
        raise ValueError(
            f"No group of this {type(optimizer).__name__} sets {name!r}, and it is built. Which "
            "numbers the groups set is part of the compiled step: decide it in the constructor."
        )
    variable = getattr(optimizer, _PREFIX + name)
    values = np.array(ops.convert_to_numpy(variable))
    values[index + 1] = _encode(name, float(number), declared)
    variable.assign(values)
    return groups[index].with_number(name, number)


def _check_number(optimizer: Any, name: str, number: Any, declared: dict[str, Any]) -> None:
    known = {n: d for n, d in declared.items() if "clip" not in n}
    if name != "lr_multiplier" and name not in known:
        raise ValueError(
            f"{type(optimizer).__name__} has no number {name!r} for a group. It has "
            f"{', '.join(['lr_multiplier', *known])}."
        )
    held = name in ("lr_multiplier", "weight_decay") or getattr(optimizer, known[name].attribute)
    if held is None:
        raise ValueError(
            f"This {type(optimizer).__name__} was made without {name}, so that no group can have "
            f"one. Give it a {name} in the constructor."
        )
    interval = "[0, inf)" if name == "lr_multiplier" else known[name].interval
    if callable(number):
        raise ValueError(f"A group's {name} is a number. Received a function, {number!r}.")
    check(number, interval, name, optimizer)


def _make_variable(optimizer: Any, groups: Sequence[Any], name: str, declared: Any) -> None:
    nothing = 1.0 if name == "lr_multiplier" else np.nan
    values = [nothing]
    for group in groups:
        number = group.numbers.get(name)
        values.append(nothing if number is None else _encode(name, number, declared))
    variable = optimizer.add_variable(
        shape=(len(values),),
        dtype=keras.backend.result_type(keras.config.floatx(), "float32"),
        aggregation="only_first_replica",
        name=f"group_{name}",
    )
    with before_training():
        variable.assign(np.array(values))
    setattr(optimizer, _PREFIX + name, variable)


def _encode(name: str, number: float, declared: dict[str, Hyperparameter | DecayRate]) -> float:
    return number if name == "lr_multiplier" else declared[name].encode(number)


def _first(matched: Sequence[bool]) -> int:
    return matched.index(True) + 1 if True in matched else 0
