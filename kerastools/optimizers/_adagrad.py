"""Adagrad: every weight has a rate of its own, which only falls."""

import dataclasses
from typing import Any, Unpack

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base.arguments import CommonArguments, Number
from kerastools.optimizers._base.hyperparameter import Hyperparameter, StepNumbers
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


@dataclasses.dataclass(kw_only=True)
class _Numbers(StepNumbers):
    epsilon: Any


@register
class Adagrad(MutableOptimizer):
    """Adagrad: the step is the gradient over the root of the sum of all its squares.

    Suits sparse features, whose rare weights keep a large rate; in deep nets the rate falls until
    training stops, and `RMSprop` or `Adam` go further. Learning rates are 10 to 100 times Adam's.

    With weights θ, gradient g, learning rate η and G starting at `initial_accumulator_value`:

        G ← G + g²
        θ ← θ − ηg / √(G + ε)

    {{mutable}}

    Args:
        {{learning_rate}}
        initial_accumulator_value: Where G starts, at least 0; the first steps are no longer than
            η|g| over its root.
        epsilon: ε, at least 0, compared with squares of gradients.
        {{common_arguments}}

    Raises:
        ValueError: If a number is outside its interval.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = Adagrad(0.5)
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.0032
    step 40: loss 0.0000
    >>> optimizer.learning_rate = 0.1

    Reference: Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and
    stochastic optimization", JMLR 2011.
    """

    epsilon = Hyperparameter("[0, inf)")

    _numbers = _Numbers
    _slots = ("accumulator",)

    def __init__(
        self,
        learning_rate: Number = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: Number = 1e-7,
        *args: Any,
        **kwargs: Unpack[CommonArguments],
    ) -> None:
        if not initial_accumulator_value >= 0:
            raise ValueError(
                "Adagrad needs initial_accumulator_value to be at least 0. Received "
                f"initial_accumulator_value={initial_accumulator_value!r}."
            )
        super().__init__(learning_rate, *args, **kwargs)
        self.epsilon = epsilon
        self.initial_accumulator_value = initial_accumulator_value

    def _slot_start(self, name: str) -> float:
        return self.initial_accumulator_value

    def _leaves_zero_rows(self, n: _Numbers) -> bool:
        return True

    def _rule(self, g: Any, n: _Numbers, total: Any) -> tuple[Any, ...]:
        total = total + ops.square(g)
        return n.learning_rate * g / ops.sqrt(total + n.epsilon), total
