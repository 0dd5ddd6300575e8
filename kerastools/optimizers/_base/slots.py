"""The state that optimizers keep per variable, built again for another set of variables.

An optimizer of Keras is built once, and its slots are lists parallel to the variables of that
moment.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kerastools._core.keras_private.optimizer_hooks import (
    forget_variables,
    known_variables,
    moving_averages,
    own_variables,
    slot_attributes,
    unbuild,
)


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
        if _is_slots(value, len(known_variables(part)))
        for slot in value
        if slot is not None
    ] + [slot for part in optimizer_tree(optimizer) for slot in vector_slots(part)]


def vector_slots(optimizer: Any) -> list[Any]:
    """Returns the variables of `optimizer` that hold one number per variable."""
    names = [f"{name}_slots" for name in getattr(optimizer, "scalar_slots", ())]
    return [getattr(optimizer, name) for name in [*names, "group_slots"] if name in vars(optimizer)]


def rebuild_slots(optimizer: Any, variables: Sequence[Any]) -> None:
    """Builds `optimizer` for `variables`; slots of variables it knew already keep their values.

    The optimizer's own `build` makes the new slots, so that they begin at their initial values and
    lie in the order in which a saved file expects them. What is not a slot stays the same object
    (iterations, learning rate, hyperparameters) or keeps its value.

    Raises:
        ValueError: If `build` makes variables that are neither slots in lists parallel to
            `variables` nor single variables under an attribute; the optimizer is then as before.
    """
    parts = list(optimizer_tree(optimizer))
    snapshots = [_Snapshot(part) for part in parts]
    put_back = [unbuild(part) for part in parts]
    try:
        optimizer.build(list(variables))
        for part in parts:
            if not part.built:  # An optimizer of a MultiOptimizer that has no variable left.
                part.build([])
        carried = [snapshot.pairs() for snapshot in snapshots]
    except Exception:
        for part in put_back:
            part()
        raise
    for snapshot, pairs in zip(snapshots, carried, strict=True):
        for new, value in pairs:
            new.assign(value)
        snapshot.start_averages()
        snapshot.drop_replaced()


class _Snapshot:
    """One optimizer before it is built again."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.known = known_variables(optimizer)
        self.attributes = slot_attributes(optimizer)
        self.variables = own_variables(optimizer)

    def rebuilt(self) -> Iterator[tuple[Any, Any]]:
        """Yields (old value, new value) of each attribute that `build` has set anew."""
        for name, new in slot_attributes(self.optimizer).items():
            old = self.attributes.get(name)
            if new is not old:
                yield old, new

    def pairs(self) -> list[tuple[Any, Any]]:
        """Returns (new, old) for each variable of the optimizer that takes over a value."""
        position = {id(v): i for i, v in enumerate(self.known)}
        wanted = known_variables(self.optimizer)
        pairs, accounted = [], {id(v) for v in self.variables}
        for old, new in self.rebuilt():
            if isinstance(new, keras.Variable):
                accounted.add(id(new))
                if isinstance(old, keras.Variable):
                    pairs.append((new, self.carried(new, old, wanted)))
            elif _is_slots(new, len(wanted)):
                accounted.update(id(slot) for slot in new)
                if not _is_slots(old, len(self.known)):
                    continue
                for variable, slot in zip(wanted, new, strict=True):
                    i = position.get(id(variable))
                    if i is not None and slot is not None and old[i] is not None:
                        # JAX may not be given one buffer under two names.
                        pairs.append((slot, keras.ops.copy(old[i])))
        strays = [v for v in own_variables(self.optimizer) if id(v) not in accounted]
        strays += [new for new, old in pairs if tuple(new.shape) != tuple(old.shape)]
        if strays:
            raise ValueError(
                f"{type(self.optimizer).__name__} keeps state that is not one slot per variable: "
                f"{strays[0].path!r} of shape {tuple(strays[0].shape)}. It cannot be carried to "
                "another set of variables; compile the model with a new optimizer instead."
            )
        return pairs

    def carried(self, new: Any, old: Any, wanted: list[Any]) -> Any:
        """Returns what a single variable takes over: all, or its numbers of known variables."""
        is_vector = any(vector is new for vector in vector_slots(self.optimizer))
        if not is_vector:
            return keras.ops.copy(old)
        values, held = (np.array(keras.ops.convert_to_numpy(v)) for v in (new, old))
        position = {id(v): i for i, v in enumerate(self.known)}
        for j, variable in enumerate(wanted):
            if id(variable) in position:
                values[j] = held[position[id(variable)]]
        return values

    def start_averages(self) -> None:
        """Lets the moving average of each variable that has just joined begin at its value."""
        if not self.optimizer.use_ema:
            return
        before = {id(v) for v in self.known}
        averages = moving_averages(self.optimizer)
        for variable, average in zip(known_variables(self.optimizer), averages, strict=True):
            if average is not None and id(variable) not in before:
                average.assign(keras.ops.copy(variable))

    def drop_replaced(self) -> None:
        """Forgets the variables that `build` has made anew."""
        for old, _ in self.rebuilt():
            variables = old if isinstance(old, list | tuple) else [old]
            found = [v for v in variables if isinstance(v, keras.Variable)]
            forget_variables(self.optimizer, found)


def _is_slots(value: Any, num_variables: int) -> bool:
    """Whether `value` is a list of one slot, or None, for each variable."""
    return (
        isinstance(value, list | tuple)
        and len(value) == num_variables
        and all(slot is None or isinstance(slot, keras.Variable) for slot in value)
    )
