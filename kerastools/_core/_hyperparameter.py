"""A hyperparameter that is a variable: it may be set while the model trains."""

from decimal import Decimal
from typing import Any

import keras
import numpy as np
from keras import ops


class Hyperparameter:
    """A number of an optimizer, held in a tracked scalar variable.

    Declared on the class, `beta = Hyperparameter("[0, 1)")`. The compiled step reads the variable,
    so `optimizer.beta = 0.8` acts on the next step without tracing again, and the number is saved
    with the optimizer's state. `None` says that there is no such number and costs nothing; whether
    it is `None` is decided in the constructor.

    Args:
        interval: Where the number must lie, in mathematical notation.
    """

    def __init__(self, interval: str) -> None:
        self.interval = interval

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.attribute = f"_{name}"

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        return self if optimizer is None else getattr(optimizer, self.attribute)

    def __set__(self, optimizer: Any, value: Any) -> None:
        old = optimizer.__dict__.get(self.attribute)
        number = None if value is None else check(value, self.interval, self.name, optimizer)
        if old is None and number is None:
            setattr(optimizer, self.attribute, None)
        elif old is None and number is not None and not optimizer.built:
            encoded = self.encode(number)
            variable = optimizer.add_variable(
                shape=(),
                # keras.initializers.Constant rounds to float32 on the way to float64.
                initializer=lambda shape, dtype: ops.convert_to_tensor(np.array(encoded, dtype)),
                dtype=scalar_dtype(),
                aggregation="only_first_replica",
                name=self.name,
            )
            setattr(optimizer, self.attribute, variable)
        elif old is None or number is None:
            raise ValueError(
                f"{type(optimizer).__name__} holds {self.name}="
                f"{'None' if old is None else self.decode(old)}. Received {self.name}={value}. "
                "Whether there is such a number is part of the compiled step: decide it in the "
                "constructor. A number can be replaced by another at any time."
            )
        else:
            old.assign(self.encode(number))

    def encode(self, number: float) -> float:
        """Returns what the variable holds for `number`."""
        return number

    def decode(self, variable: Any) -> float:
        """Returns the number that `variable` holds, printed shortly: 0.1, not 0.10000000149."""
        return float(shortest(variable))

    def in_update(self, optimizer: Any, dtype: str) -> Any:
        """Returns the number as the update rule reads it: a scalar tensor, or `None`."""
        variable = getattr(optimizer, self.attribute)
        return None if variable is None else ops.cast(variable, dtype)


class DecayRate(Hyperparameter):
    """The weight β that a moving average gives its past, in [0, 1); held as 1 − β.

    Float32 holds 0.9999 with an error of 1.7e-8, which is 1.7e-4 of the 1 − β that every average
    is made with. Held as 1 − β the error is 1e-8 of it. Reading gives β as a scalar tensor.
    """

    def __init__(self) -> None:
        super().__init__("[0, 1)")

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        return self if optimizer is None else 1 - getattr(optimizer, self.attribute)

    def encode(self, number: float) -> float:
        """Returns 1 − β."""
        return float(1 - Decimal(repr(number)))

    def decode(self, variable: Any) -> float:
        """Returns β."""
        return float(1 - shortest(variable))

    def in_update(self, optimizer: Any, dtype: str) -> "Average":
        """Returns the moving average with this rate."""
        return Average(super().in_update(optimizer, dtype))


class Average:
    """A moving average a ← βa + (1 − β)x that began at 0; made from 1 − β."""

    def __init__(self, complement: Any) -> None:
        self.complement = complement

    @property
    def beta(self) -> Any:
        """β."""
        return 1 - self.complement

    def average(self, a: Any, x: Any) -> Any:
        """Returns βa + (1 − β)x."""
        return a + self.complement * (x - a)

    def bias(self, t: Any) -> Any:
        """Returns 1 − βᵗ, the sum of the weights after t steps, exact to the last digits."""
        return -ops.expm1(t * ops.log1p(-self.complement))


def check(value: Any, interval: str, name: str, optimizer: Any) -> float:
    """Returns `value` as a float if it lies in `interval`, else raises `ValueError`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(
            f"{type(optimizer).__name__} needs {name} to be a number in {interval}. "
            f"Received {name}={value!r}."
        )
    return number


def scalar_dtype() -> str:
    """Returns Keras's float type, but float32 at least: bfloat16 rounds 0.999 to 1."""
    return keras.backend.result_type(keras.config.floatx(), "float32")


def shortest(variable: Any) -> Decimal:
    """Returns the shortest decimal that is still this variable's number."""
    return Decimal(str(ops.convert_to_numpy(variable)[()]))
