"""The numbers of an optimizer: live, of all variables or of groups of them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import known_variables, learning_rate_source
from kerastools.optimizers._base.hyperparameter import (
    Average,
    Hyperparameter,
    check,
    overridden,
    shortest,
)
from kerastools.optimizers._base.param_groups import group_numbers, set_group_number

_RATE = ("[0, inf)", "learning_rate")


class LiveNumbers(keras.optimizers.Optimizer):
    """The part of `MutableOptimizer` that knows of its hyperparameters.

    A subclass declares each as a `Hyperparameter`; the learning rate is Keras's own.
    """

    def __init__(self, learning_rate: Any, param_groups: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(learning_rate=check(learning_rate, *_RATE, self), **kwargs)
        # Not attributes of their own: Keras would track the variables in them.
        self._fixed = SimpleNamespace(param_groups=tuple(param_groups), rate_factors={})

    @classmethod
    def declared(cls) -> dict[str, Hyperparameter]:
        """Returns the hyperparameters by name, but for the learning rate."""
        return {
            name: attribute
            for parent in reversed(cls.__mro__)
            for name, attribute in vars(parent).items()
            if isinstance(attribute, Hyperparameter)
        }

    @property
    def learning_rate(self) -> Any:
        """The learning rate η, a scalar variable; assign a number to change it."""
        source = learning_rate_source(self)
        return source(self.iterations) if callable(source) else source

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        keras.optimizers.Optimizer.learning_rate.fset(self, check(value, *_RATE, self))

    @property
    def param_groups(self) -> tuple[Any, ...]:
        """The groups that the optimizer was given."""
        return self._fixed.param_groups

    def set_group(self, index: int, **numbers: float) -> None:
        """Sets numbers of the group `param_groups[index]`; acts on the running `fit`."""
        groups, declared = list(self.param_groups), self.declared()
        for name, number in numbers.items():
            groups[index] = set_group_number(self, groups, index, name, number, declared)
            self._fixed.param_groups = tuple(groups)

    def set_rate_factors(self, factors: dict[int, float]) -> None:
        """Multiplies the learning rate of single variables, by id; for steps traced from now."""
        self._fixed.rate_factors = dict(factors)

    def live_numbers(self) -> list[str]:
        """Returns the names of the numbers that may be set while training."""
        sources = {name: getattr(self, d.attribute) for name, d in self.declared().items()}
        sources["learning_rate"] = learning_rate_source(self)
        return [name for name, source in sources.items() if isinstance(source, keras.Variable)]

    def hyperparameters(self, learning_rate: Any, dtype: str, rounds: bool) -> SimpleNamespace:
        """Returns the numbers of this update by name: scalars, or vectors over the variables.

        With `rounds`, memories are rounded to `dtype`, as the kernels take them.
        """
        overrides = group_numbers(self, self.param_groups, dtype)
        h = SimpleNamespace()
        for name, declared in self.declared().items():
            value = declared.in_update(self, dtype, overrides.get(name))
            rounded = rounds and isinstance(value, Average)
            setattr(h, name, value.rounded() if rounded else value)
        if h.weight_decay is None and "weight_decay" in overrides:
            h.weight_decay = overridden(0.0, overrides["weight_decay"])
        h.learning_rate = ops.cast(learning_rate, dtype)
        h.zero = ops.zeros((), dtype)
        if "lr_multiplier" in overrides:
            h.learning_rate = h.learning_rate * overrides["lr_multiplier"]
        factors = self._fixed.rate_factors
        if factors:
            column = [factors.get(id(v), 1.0) for v in known_variables(self)]
            h.learning_rate = h.learning_rate * ops.convert_to_tensor(column, dtype)
        if h.weight_decay is not None:
            h.kept = 1 - h.learning_rate * h.weight_decay
        return h

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        config = super().get_config()
        del config["ema_overwrite_frequency"]
        if isinstance(config["learning_rate"], float):
            config["learning_rate"] = float(shortest(self.learning_rate))
        numbers = {name: d.config(self) for name, d in self.declared().items()}
        groups = [keras.saving.serialize_keras_object(group) for group in self.param_groups]
        return config | numbers | {"param_groups": groups}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Returns the optimizer that `get_config` described."""
        functions = {
            name: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            for name, value in config.items()
            if isinstance(value, dict) or name == "param_groups"
        }
        return cls(**config | functions)
