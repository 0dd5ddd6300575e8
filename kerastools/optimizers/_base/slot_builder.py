"""How an optimizer makes and finds the state that it keeps per variable."""

from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import OptimizerHooks, before_training
from kerastools.optimizers._base.per_variable import is_half, wide
from kerastools.optimizers._base.slot_rows import Row, Stack, stacks_of


class SlotBuilder(OptimizerHooks):
    """The part of `MutableOptimizer` that makes slots.

    Every slot is float32 at least. Small variables of one shape share a stack, of which each has a
    row; to all others a row is a variable like any other.
    """

    # Names of the slots of one variable's shape.
    slots: tuple[str, ...] = ()

    def lay_out(self, variables: list[Any], stacks: bool) -> None:
        """Decides before slots are made which variables share a stack."""
        # Not an attribute of its own: Keras would track the variables in it, whose rows are saved.
        self._layout = SimpleNamespace(stacks=stacks_of(variables) if stacks else [])
        self.scalar_dtype = keras.backend.result_type(*map(wide, variables), "float32")

    @property
    def stacks(self) -> list[Stack]:
        """The stacks, in which small variables of one shape have their slots."""
        return self._layout.stacks

    def slots_of(self, index: int) -> list[Any]:
        """Returns the slots of one variable, in the order in which the rule takes them."""
        return [getattr(self, f"{name}_slots")[index] for name in self.slots]

    def add_reading(self, name: str, dtype: str) -> Any:
        """Creates a scalar that the optimizer shows."""
        return self.add_variable(shape=(), dtype=dtype, aggregation="only_first_replica", name=name)

    def add_vector(self, name: str, length: int, dtype: str | None = None) -> Any:
        """Creates a slot of one number per variable."""
        return self.add_variable(
            shape=(length,),
            dtype=dtype or self.scalar_dtype,
            aggregation="only_first_replica",
            name=name,
        )

    def add_slots(self, name: str, variables: list[Any]) -> list[Any]:
        """Creates a slot for each variable, in their order, in which files have them."""
        rows: dict[int, Any] = {}
        for stack in self.stacks:
            rows |= stack.add_slot(name)
        return [self._add_slot(name, v, rows.get(i)) for i, v in enumerate(variables)]

    def add_master(self, variable: Any) -> Any:
        """Creates the float32 twin of a variable of half precision; `None` for others."""
        slot = self._add_slot("master", variable) if is_half(variable) else None
        if slot is not None:
            with before_training():
                slot.assign(ops.cast(variable, slot.dtype))
        return slot

    def assign(self, variable: Any, value: Any) -> None:
        """Assigns a value of any float type to a variable of the model or to a slot."""
        if isinstance(variable, Row):
            variable.assign(value)
        else:
            super().assign(variable, value)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        """Returns what TensorFlow saves of the optimizer: nothing in a SavedModel, which serves.

        A row has no storage that `tf.saved_model.save` could find. Keras keeps no public way to
        leave state out of one; `tests/optimizers/base/test_slot_rows.py` saves and loads a
        trained model.
        """
        if save_type == "savedmodel":
            return {}
        return super()._trackable_children(save_type, **kwargs)

    def _add_slot(self, name: str, variable: Any, make_row: Any = None) -> Any:
        if getattr(variable, "overwrite_with_gradient", False):
            return None  # Keras assigns these the gradient itself (float8 scales).
        if make_row is not None:
            with keras.name_scope(self.name):
                row = make_row(name=f"{variable.path.replace('/', '_')}_{name}")
            self.track(row)
            return row
        if keras.backend.standardize_dtype(variable.dtype) == wide(variable):
            return self.add_variable_from_reference(variable, name=name)
        return self.add_variable(shape=variable.shape, dtype=wide(variable), name=name)
