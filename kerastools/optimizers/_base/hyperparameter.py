"""Hyperparameters that are variables, and the numbers of one update that are made of them."""

import dataclasses
import inspect
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops


class Hyperparameter:
    """A mutable hyperparameter: a tracked scalar variable, or a function of the step.

    Declared on the class, `beta = Hyperparameter("[0, 1)")`. The compiled step reads the variable,
    so `optimizer.beta = 0.8` acts on the next step without tracing again, and the number is saved
    with the optimizer's state. A function, such as a `LearningRateSchedule`, is part of the
    compiled step. `None` says that there is no such number and costs nothing. Which of the three
    it is, the constructor decides.

    Args:
        interval: Where the number must lie, in mathematical notation.
    """

    def __init__(self, interval: str) -> None:
        self.interval = interval

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.attribute = f"_{name}"

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        if optimizer is None:
            return self
        return current(getattr(optimizer, self.attribute), optimizer)

    def __set__(self, optimizer: Any, value: Any) -> None:
        checked = None if value is None else check(value, self.interval, self.name, optimizer)
        old = optimizer.__dict__.get(self.attribute)
        if isinstance(old, keras.Variable) and isinstance(checked, float):
            old.assign(self.encode(checked))
        elif callable(old) and callable(checked):
            setattr(optimizer, self.attribute, checked)
        elif checked is old:
            setattr(optimizer, self.attribute, None)
        elif old is None and not optimizer.built:
            source = self._variable(optimizer, checked) if isinstance(checked, float) else checked
            setattr(optimizer, self.attribute, source)
        else:
            raise ValueError(
                f"{type(optimizer).__name__} holds {self.name}={self.config(optimizer)}. Received "
                f"{self.name}={value}. Whether this is a number, a function of the step or None "
                "is part of the compiled step: decide it in the constructor. A number can be "
                "replaced by another at any time."
            )

    def encode(self, number: float) -> float:
        """Returns what the variable holds for `number`."""
        return number

    def decode(self, variable: Any) -> float:
        """Returns the number that `variable` holds, printed shortly: 0.1, not 0.10000000149."""
        return float(shortest(variable))

    def config(self, optimizer: Any) -> Any:
        """Returns the number as it is now, the function as plain data, or `None`."""
        source = getattr(optimizer, self.attribute)
        if isinstance(source, keras.Variable):
            return self.decode(source)
        return keras.saving.serialize_keras_object(source)

    def held(self, optimizer: Any) -> Any:
        """Returns the number encoded, as the variable holds it, or `None`."""
        return current(getattr(optimizer, self.attribute), optimizer)

    def in_update(self, held: Any, dtype: str, override: Any = None) -> Any:
        """Returns the number as the update rule reads it: a tensor, or `None`.

        `override`, if given, holds one encoded number per variable, or NaN where there is none.
        """
        return None if held is None else overridden(ops.cast(held, dtype), override)

    def _variable(self, optimizer: Any, number: float) -> Any:
        # Keras's initializer Constant would round to float32 on the way to float64.
        held = np.array(self.encode(number), scalar_dtype())
        return optimizer.add_variable(
            shape=(),
            initializer=lambda shape, dtype: ops.convert_to_tensor(held, dtype=dtype),
            dtype=scalar_dtype(),
            aggregation="only_first_replica",
            name=self.name,
        )


class DecayRate(Hyperparameter):
    """The weight β that a moving average gives its past; held as 1 − β.

    Float32 holds 0.9999 with an error of 1.7e-8, which is 1.7e-4 of the 1 − β that every average
    is made with. Held as 1 − β the error is 1e-8 of it. Reading gives β as a scalar tensor.
    """

    def __init__(self, interval: str = "[0, 1)") -> None:
        super().__init__(interval)

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        value = super().__get__(optimizer, owner)
        return 1 - value if isinstance(value, keras.Variable) else value

    def encode(self, number: float) -> float:
        """Returns 1 − β."""
        return float(1 - Decimal(repr(number)))

    def decode(self, variable: Any) -> float:
        """Returns β."""
        return float(1 - shortest(variable))

    def held(self, optimizer: Any) -> Any:
        """Returns 1 − β."""
        value = super().held(optimizer)
        return value if isinstance(value, keras.Variable) else 1 - value

    def in_update(self, held: Any, dtype: str, override: Any = None) -> "Average":
        """Returns the moving average with this decay rate."""
        return Average(overridden(ops.cast(held, dtype), override))


class Average:
    """A moving average a ← βa + (1 − β)x that started at 0; made from 1 − β.

    Of one that is `rounded`, `exact` is the 1 − β before.
    """

    def __init__(self, complement: Any, exact: Any = None) -> None:
        self.complement = complement
        self.exact = exact

    @cached_property
    def beta(self) -> Any:
        """β."""
        return 1 - self.complement

    def rounded(self) -> "Average":
        """Returns the average whose β is rounded to its type, as the kernels take it."""
        # TensorFlow would make x of 1 − (1 − x), which undoes the rounding.
        return Average(1 - ops.maximum(self.beta, 0), exact=self.complement)

    def average(self, a: Any, x: Any) -> Any:
        """Returns βa + (1 − β)x."""
        return a + self.complement * (x - a)

    def bias(self, t: Any) -> Any:
        """Returns 1 − βᵗ, the sum of the weights after t steps, exact to the last digits."""
        # At β = 0 the logarithm is −∞, which times t = 0 would be no number.
        return -ops.expm1(t * ops.maximum(ops.log1p(-self.complement), -1e4))

    def keras_bias(self, t: Any) -> Any:
        """Returns 1 − βᵗ as Keras has it: of the rounded β, though its average is of the exact one.

        At β = 0.999 in float32 the two differ by 1.3e-5, which a trajectory equal to Keras's shows.
        """
        bias = 1 - ops.power(self.beta, t)
        if self.exact is None:
            return bias
        # By as much as a kernel's average, which is of the rounded β, is more than Keras's.
        return bias * self.bias(t) / Average(self.exact).bias(t)


@dataclasses.dataclass(kw_only=True)
class StepNumbers:
    """The numbers of one update: scalars, or vectors with one entry per variable.

    A subclass adds the hyperparameters of an optimizer by their names, and what its `_advance`
    works out of them once per update.
    """

    learning_rate: Any
    weight_decay: Any
    clipnorm: Any
    clipvalue: Any
    global_clipnorm: Any
    adaptive_clipnorm: Any
    decay_factor: Any = None  # 1 − ηλ
    decay: Any = None  # λθ, for a rule that uses it itself
    zero: Any = None

    def picked(self, pick: Callable[[Any], Any], dtype: str) -> Any:
        """Returns the numbers of some of the variables, in `dtype`.

        `pick` is given a number, a scalar or a vector over all variables, and returns theirs.
        """

        def part(value: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, Average):
                complement = part(value.complement)
                return value if complement is value.complement else Average(complement)
            value = pick(value)
            kept = keras.backend.standardize_dtype(value.dtype) in (dtype, "bool")
            return value if kept else ops.cast(value, dtype)

        return type(self)(**{name: part(value) for name, value in vars(self).items()})


class UnstackCache:
    """Picks one number out of a vector or column of all, which is taken apart only once."""

    def __init__(self, length: int) -> None:
        self._length = length
        # With the vector itself, or its identity could be another's later.
        self._parts: dict[int, tuple[Any, list[Any]]] = {}

    def at(self, index: int, value: Any) -> Any:
        """Returns the number at `index`."""
        if len(value.shape) == 0:
            return value
        if id(value) not in self._parts:
            vector = ops.reshape(value, (-1,)) if len(value.shape) > 1 else value
            self._parts[id(value)] = value, list(ops.unstack(vector, self._length))
        return self._parts[id(value)][1][index]


def current(source: Any, optimizer: Any) -> Any:
    """Returns a number now: its variable, or what its function says of the step."""
    if not callable(source):
        return source
    return source(optimizer.iterations) if takes_step(source) else source()


def overridden(value: Any, override: Any) -> Any:
    """Returns `value` where `override` is NaN, else what stands there."""
    return value if override is None else ops.where(ops.isnan(override), value, override)


def check(value: Any, interval: str, name: str, optimizer: Any) -> Any:
    """Returns `value` as a float if it lies in `interval`, else raises `ValueError`.

    A function of the step is returned as it is, if its value at step 0 lies there.
    """
    if isinstance(value, dict):  # A function as plain data.
        value = keras.saving.deserialize_keras_object(value)
    now = value
    if callable(value):
        now = value(0) if takes_step(value) else value()
    try:
        number = float(now)
    except (TypeError, ValueError):
        number = np.nan
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(
            f"{type(optimizer).__name__} needs {name} to be a number in {interval}, or a function "
            f"of the step that returns one. Received {name}={value!r}"
            f"{f', which is {number:g} at step 0' if callable(value) else ''}."
        )
    return value if callable(value) else number


def scalar_dtype() -> str:
    """Returns Keras's float type, but float32 at least: bfloat16 rounds 0.999 to 1."""
    return keras.backend.result_type(keras.config.floatx(), "float32")


def shortest(variable: Any) -> Decimal:
    """Returns the shortest decimal that is still this variable's number."""
    return Decimal(str(ops.convert_to_numpy(variable)[()]))


def takes_step(function: Any) -> bool:
    """Returns whether `function` can be given the step; Keras's functions take no argument."""
    try:
        inspect.signature(function).bind(0)
    except TypeError:
        return False
    except ValueError:  # A builtin that tells nothing of itself.
        return True
    return True
