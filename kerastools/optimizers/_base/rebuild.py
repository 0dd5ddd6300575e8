"""An optimizer built again for another set of variables, the slots of the old ones kept."""

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
from kerastools.optimizers._base.slots import are_slots, optimizer_tree, vector_slots


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
        for restore in put_back:
            restore()
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
        self.position = {id(v): i for i, v in enumerate(self.known)}

    def rebuilt(self) -> Iterator[tuple[Any, Any]]:
        """Yields (old value, new value) of each attribute that `build` has set again."""
        for name, new in slot_attributes(self.optimizer).items():
            old = self.attributes.get(name)
            if new is not old:
                yield old, new

    def pairs(self) -> list[tuple[Any, Any]]:
        """Returns (new, old) for each variable of the optimizer that takes over a value."""
        wanted = known_variables(self.optimizer)
        pairs, accounted = [], {id(v) for v in self.variables}
        for old, new in self.rebuilt():
            if isinstance(new, keras.Variable):
                accounted.add(id(new))
                if isinstance(old, keras.Variable):
                    pairs.append((new, self.carried(new, old, wanted)))
            elif are_slots(new, len(wanted)):
                accounted.update(id(slot) for slot in new)
                if not are_slots(old, len(self.known)):
                    continue
                for variable, slot in zip(wanted, new, strict=True):
                    i = self.position.get(id(variable))
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
        if not any(vector is new for vector in vector_slots(self.optimizer)):
            return keras.ops.copy(old)
        values, held = (np.array(keras.ops.convert_to_numpy(v)) for v in (new, old))
        for j, variable in enumerate(wanted):
            if id(variable) in self.position:
                values[j] = held[self.position[id(variable)]]
        return values

    def start_averages(self) -> None:
        """Lets the moving average of each variable that has just joined begin at its value."""
        if not self.optimizer.use_ema:
            return
        averages = moving_averages(self.optimizer)
        for variable, average in zip(known_variables(self.optimizer), averages, strict=True):
            if average is not None and id(variable) not in self.position:
                average.assign(keras.ops.copy(variable))

    def drop_replaced(self) -> None:
        """Forgets the variables in whose place `build` has made new ones."""
        for old, _ in self.rebuilt():
            several = old if isinstance(old, list | tuple) else [old]
            replaced = [v for v in several if isinstance(v, keras.Variable)]
            forget_variables(self.optimizer, replaced)
