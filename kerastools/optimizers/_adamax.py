"""Adamax: Adam with another norm than the second."""

import dataclasses
from math import inf, isinf
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
    beta_1: Average
    beta_2: Average
    epsilon: Any
    alpha: Any = None  # η / (1 − β₁ᵗ)
    fresh: Any = None  # 1 − β₂ᵖ
    correction: Any = None  # (1 − β₂ᵖᵗ)^(1/p)


@register
class Adamax(MutableOptimizer):
    """Adamax: Adam whose step is divided by the largest recent gradient.

    More stable than Adam where single gradients are far larger than the rest, embeddings for
    instance; learning rates about twice Adam's.

    With weights θ, gradient g, learning rate η and t the number of this variable's steps:

        t ← t + 1
        m ← β₁m + (1 − β₁)g
        u ← max(β₂u, |g|)
        θ ← θ − η m / (1 − β₁ᵗ) / (u + ε)

    That is the limit p → ∞ of the exponentially weighted L^p norm

        u ← (β₂ᵖuᵖ + (1 − β₂ᵖ)|g|ᵖ)^(1/p)

    which `norm_order` p gives for finite p, divided by (1 − β₂ᵖᵗ)^(1/p) as Adam's root is; at
    p = 2 it is Adam with β₂² and `epsilon_mode="outside"`.

    {{mutable}}

    {{own_steps}}

    Args:
        {{learning_rate}}
        beta_1: β₁ in [0, 1), the decay rate of the first moment.
        beta_2: β₂ in [0, 1), the decay rate of the norm.
        epsilon: ε, at least 0, added to the norm: it only avoids 0/0.
        norm_order: p, at least 1.
        {{common_arguments}}

    Raises:
        ValueError: If a number is outside its interval.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = Adamax(0.1)
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.2684
    step 40: loss 0.0040
    >>> optimizer.beta_2 = 0.99

    Reference: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, section 7.1.
    """

    beta_1 = DecayRate()
    beta_2 = DecayRate()
    epsilon = Hyperparameter("[0, inf)")

    _numbers = _Numbers
    _scalar_slots = ("step",)
    _slots = ("momentum", "norm")

    def __init__(
        self,
        learning_rate: Number = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        *args: Any,
        norm_order: float = inf,
        **kwargs: Unpack[CommonArguments],
    ) -> None:
        if not norm_order >= 1:
            raise ValueError(
                f"Adamax needs norm_order to be at least 1. Received norm_order={norm_order!r}."
            )
        super().__init__(learning_rate, *args, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.norm_order = float(norm_order)

    def _advance(self, n: _Numbers, t: Any) -> tuple[Any, ...]:
        t, p = t + 1, self.norm_order
        n.alpha = n.learning_rate / n.beta_1.keras_bias(t)
        if not isinf(p):
            n.fresh = n.beta_2.bias(p)
            n.correction = n.beta_2.bias(p * t) ** (1 / p)
        return (t,)

    def _rule(self, g: Any, n: _Numbers, m: Any, u: Any) -> tuple[Any, ...]:
        m = n.beta_1.average(m, g)
        faded, new = n.beta_2.beta * u, ops.abs(g)
        u = u_hat = largest = ops.maximum(faded, new)
        if not isinf(self.norm_order):
            # Powers of ratios to the largest, because those of the numbers over- and underflow.
            p = self.norm_order
            unit = ops.where(largest > 0, largest, ops.ones_like(largest))
            powers = (faded / unit) ** p + n.fresh * (new / unit) ** p
            u = largest * powers ** (1 / p)
            u_hat = u / n.correction
        return n.alpha * m / (u_hat + n.epsilon), m, u

    def _has_kernel(self) -> bool:
        return isinf(self.norm_order)

    def _kernel(self, theta: Any, g: Any, n: _Numbers, *slots: Any) -> None:
        tf_kernels.adamax(theta, *slots, g=g, n=n)
