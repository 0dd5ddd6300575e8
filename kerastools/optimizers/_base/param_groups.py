"""Which group each variable of an optimizer is in, and the hyperparameters of the groups."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools.optimizers._base.hyperparameter import DecayRate, Hyperparameter, check
from kerastools.optimizers._base.slots import holding

_PREFIX = "_group_"


def number_names(groups: Sequence[Any]) -> list[str]:
    """Returns the names of the numbers that any of the groups sets."""
    return sorted({name for group in groups for name in group.numbers})


def assign_groups(
    optimizer: Any, groups: Sequence[Any], variables: Sequence[Any], declared: dict[str, Any]
) -> np.ndarray | None:
    """Returns which variables (rows) are in which groups; makes the variables of the numbers.

    Warns if a group matches no variable: its layers may be frozen now, or its name be wrong.

    Raises:
        ValueError: If two groups set the same number of a variable, or a number cannot be grouped.
    """
    if not groups:
        return None
    for group in groups:
        for name, number in group.numbers.items():
            _check_number(optimizer, name, number, declared)
    matches = [[group.matches(v) for v in variables] for group in groups]
    for group, matched in zip(groups, matches, strict=True):
        if variables and not any(matched) and not group.may_be_empty():
            paths = ", ".join(v.path for v in variables[:8])
            warnings.warn(
                f"{group} matches none of the {len(variables)} variables that train now: {paths}"
                f"{', ...' if len(variables) > 8 else ''}. It acts once it matches one.",
                stacklevel=2,
            )
    for i, variable in enumerate(variables):
        _check_overlap(
            [g for g, matched in zip(groups, matches, strict=True) if matched[i]], variable
        )
    for name in number_names(groups):
        _make_variable(optimizer, groups, name, declared)
    return np.array(matches, "int32").T


def _check_overlap(groups: Iterable[Any], variable: Any) -> None:
    """Raises `ValueError` if two groups set the same number of a variable; multipliers multiply."""
    setting: dict[str, Any] = {}
    for group in groups:
        for name in group.numbers.keys() - {"lr_multiplier"}:
            if name in setting:
                raise ValueError(
                    f"{setting[name]} and {group} both set {name} of {variable.path!r}. Make one "
                    "of them narrower. Groups that set different numbers may overlap, and their "
                    "lr_multipliers are multiplied."
                )
            setting[name] = group


def group_numbers(optimizer: Any, groups: Sequence[Any], dtype: str) -> dict[str, Any]:
    """Returns, for each number that groups set, a vector over the variables; NaN where none is."""
    found = {}
    for name in number_names(groups):
        member = ops.cast(optimizer._group_slots, "bool")
        values = ops.cast(getattr(optimizer, _PREFIX + name), dtype)
        if name == "lr_multiplier":
            found[name] = ops.prod(ops.where(member, values, 1.0), axis=1)
        else:
            member = ops.logical_and(member, ops.logical_not(ops.isnan(values)))
            number = ops.sum(ops.where(member, values, 0.0), axis=1)
            found[name] = ops.where(ops.any(member, axis=1), number, np.nan)
    return found


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
    values[index] = _encode(name, float(number), declared)
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
    numbers = [group.numbers.get(name) for group in groups]
    values = [nothing if n is None else _encode(name, n, declared) for n in numbers]
    variable = optimizer.add_variable(
        shape=(len(values),),
        initializer=holding(values),
        dtype=keras.backend.result_type(keras.config.floatx(), "float32"),
        aggregation="only_first_replica",
        name=f"group_{name}",
    )
    setattr(optimizer, _PREFIX + name, variable)


def _encode(name: str, number: float, declared: dict[str, Hyperparameter | DecayRate]) -> float:
    return number if name == "lr_multiplier" else declared[name].encode(number)
