"""An optimizer that wraps another."""

from typing import Any

import keras

from kerastools.optimizers._base.slots import holding


class WrappedOptimizer(keras.optimizers.Optimizer):
    """Base of optimizers that leave the update to `inner_optimizer`, any of Keras's or ours.

    Learning rate, iterations and loss scaling are the inner optimizer's; its state is saved with
    the wrapper's.
    """

    def __init__(self, inner_optimizer: Any, name: str | None = None) -> None:
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                f"{type(self).__name__} needs a keras.optimizers.Optimizer to wrap. Received "
                f"{inner_optimizer!r} of type {type(inner_optimizer).__name__}."
            )
        if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                f"{type(self).__name__} goes inside a LossScaleOptimizer, not round it: "
                f"LossScaleOptimizer({type(self).__name__}(...))."
            )
        super().__init__(learning_rate=0.0, name=name or type(self).__name__.lower())
        self.inner_optimizer = inner_optimizer

    def build(self, variables: list[Any]) -> None:
        """Builds the inner optimizer and the slots of this one."""
        self.inner_optimizer.build(variables)
        super().build(variables)

    @property
    def variables(self) -> list[Any]:
        """All state: the wrapper's, then the inner optimizer's."""
        return super().variables + self.inner_optimizer.variables

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate; assign a number to change it."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    @property
    def iterations(self) -> Any:
        """The number of updates that the inner optimizer has made."""
        return self.inner_optimizer.iterations

    def scale_loss(self, loss: Any) -> Any:
        """Returns the loss as the inner optimizer wants it."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Leaves the weights at the end of `fit` as the inner optimizer does."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"inner_optimizer": inner, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Returns the optimizer that `get_config` described."""
        inner = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "inner_optimizer": inner})

    def _starting_at(self, variables: list[Any], name: str) -> list[Any]:
        """Returns a slot for each variable that begins at the variable's value."""
        slots: list[Any] = []
        for variable in variables:
            if getattr(variable, "overwrite_with_gradient", False):
                slots.append(None)  # Keras assigns these the gradient itself (float8 scales).
                continue
            start = holding(variable)
            slots.append(self.add_variable_from_reference(variable, name=name, initializer=start))
        return slots
