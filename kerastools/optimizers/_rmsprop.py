"""RMSprop: Adagrad that forgets."""

import dataclasses
from typing import Any, Unpack

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.arguments import CommonArguments, Number
from kerastools.optimizers._base.hyperparameter import (
    Average,
    DecayRate,
    Hyperparameter,
    StepNumbers,
)
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


@dataclasses.dataclass(kw_only=True)
class _Numbers(StepNumbers):
    rho: Average
    momentum: Any
    epsilon: Any


@register
class RMSprop(MutableOptimizer):
    """RMSprop: the step is the gradient over the root of its mean square.

    A steady choice for recurrent nets and reinforcement learning; learning rates like Adam's. The
    mean square starts at 0 and is not corrected for it, so that the first steps are up to
    1/√(1 − ρ) times as long as the later ones.

    With weights θ, gradient g, learning rate η and momentum γ:

        G ← ρG + (1 − ρ)g²
        v ← γv + ηg / √(G + ε)
        θ ← θ − v

    With `centered`, the variance stands under the root: ḡ ← ρḡ + (1 − ρ)g, and G − ḡ² in place of
    G.

    {{mutable}}

    Args:
        {{learning_rate}}
        rho: ρ in [0, 1), the decay rate of the mean square.
        momentum: γ in [0, 1]. At 0 the velocity is kept too, so that γ can be raised while
            training; `None` does without it and saves its memory.
        epsilon: ε, at least 0, compared with squares of gradients.
        centered: Whether the variance takes the place of the mean square.
        {{common_arguments}}

    Raises:
        ValueError: If a number is outside its interval.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = RMSprop(0.05)
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.6057
    step 40: loss 0.0377
    >>> optimizer.rho = 0.99

    References: Tieleman and Hinton, "Lecture 6.5: RMSprop", Neural networks for machine learning,
    2012; Graves, "Generating sequences with recurrent neural networks", 2013 (centered).
    """

    rho = DecayRate()
    momentum = Hyperparameter("[0, 1]")
    epsilon = Hyperparameter("[0, inf)")

    _numbers = _Numbers
    _slots: tuple[str, ...] = ("mean_square",)

    def __init__(
        self,
        learning_rate: Number = 0.001,
        rho: Number = 0.9,
        momentum: Number | None = 0.0,
        epsilon: Number = 1e-7,
        centered: bool = False,
        *args: Any,
        **kwargs: Unpack[CommonArguments],
    ) -> None:
        super().__init__(learning_rate, *args, **kwargs)
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        if centered:
            self._slots = (*self._slots, "mean")
        if momentum is not None:
            self._slots = (*self._slots, "velocity")

    def _rule(self, g: Any, n: _Numbers, square: Any, *more: Any) -> tuple[Any, ...]:
        square = spread = n.rho.average(square, ops.square(g))
        slots = [square]
        if self.centered:
            mean = n.rho.average(more[0], g)
            slots.append(mean)
            # A variance, but rounding may take it below 0.
            spread = ops.maximum(square - ops.square(mean), 0)
        step = n.learning_rate * g / ops.sqrt(spread + n.epsilon)
        if n.momentum is not None:
            step = n.momentum * more[-1] + step
            slots.append(step)
        return step, *slots

    def _has_kernel(self) -> bool:
        return self.momentum is not None and not self.centered

    def _kernel(self, theta: Any, g: Any, n: _Numbers, *slots: Any) -> None:
        tf_kernels.rmsprop(theta, *slots, g=g, n=n)
