"""RAdam: Adam that rectifies the variance of its early steps."""

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
    beta_1: Average
    beta_2: Average
    epsilon: Any
    rectified: Any = None  # Whether ρ ≥ 5.
    plain: Any = None  # η / (1 − β₁ᵗ)
    alpha: Any = None  # η r √(1 − β₂ᵗ) / (1 − β₁ᵗ)
    # For the kernel: α / (√v + ε) is the plain rate where ε is so large that √v is nothing to it.
    kernel_alpha: Any = None
    kernel_epsilon: Any = None


@register
class RAdam(MutableOptimizer):
    """Rectified Adam: Adam whose first steps are as short as their variance is large.

    Takes the place of a warm-up of the learning rate; learning rates like Adam's. For the first
    four steps or so, in which the mean square says nothing, it is gradient descent with momentum.

    With weights θ, gradient g, learning rate η, t the number of this variable's steps and
    ρ_∞ = 2/(1 − β₂) − 1:

        t ← t + 1
        m ← β₁m + (1 − β₁)g
        v ← β₂v + (1 − β₂)g²
        m̂ = m / (1 − β₁ᵗ)
        ρ = ρ_∞ − 2tβ₂ᵗ / (1 − β₂ᵗ)
        r = √((ρ − 4)(ρ − 2)ρ_∞ / ((ρ_∞ − 4)(ρ_∞ − 2)ρ))
        θ ← θ − η r m̂ √(1 − β₂ᵗ) / (√v + ε)    if ρ ≥ 5, else    θ ← θ − η m̂

    The paper takes ρ > 4 for the boundary; the authors' code, and all others after it, 5.

    {{mutable}}

    {{own_steps}}

    Args:
        {{learning_rate}}
        beta_1: β₁ in [0, 1), the decay rate of the first moment.
        beta_2: β₂ in [0, 1), the decay rate of the second moment. Below 0.6 nothing is ever
            rectified.
        epsilon: ε, at least 0, added to √v, as in the authors' code.
        {{common_arguments}}

    Raises:
        ValueError: If a number is outside its interval.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = RAdam(0.1)
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.1401
    step 40: loss 0.0520
    >>> optimizer.beta_1 = 0.8

    Reference: Liu, Jiang, He, Chen, Liu, Gao and Han, "On the variance of the adaptive learning
    rate and beyond", ICLR 2020.
    """

    beta_1 = DecayRate()
    beta_2 = DecayRate()
    epsilon = Hyperparameter("[0, inf)")

    _numbers = _Numbers
    _scalar_slots = ("step",)
    _slots = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: Number = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-8,
        *args: Any,
        **kwargs: Unpack[CommonArguments],
    ) -> None:
        super().__init__(learning_rate, *args, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def _advance(self, n: _Numbers, t: Any) -> tuple[Any, ...]:
        t = t + 1
        bias = n.beta_2.bias(t)
        rho_inf = 2 / n.beta_2.complement - 1
        rho = rho_inf - 2 * t * (1 - bias) / bias
        n.rectified = rho >= 5
        safe = ops.where(n.rectified, rho, 5.0)
        # With β₂ so small that ρ_∞ ≤ 4 no ρ reaches 5; the quotient below must not be 0/0 for it.
        safe_inf = ops.maximum(rho_inf, 5.0)
        r2 = (safe - 4) * (safe - 2) * safe_inf / ((safe_inf - 4) * (safe_inf - 2) * safe)
        n.plain = n.learning_rate / n.beta_1.bias(t)
        n.alpha = n.plain * ops.sqrt(r2 * bias)
        n.kernel_alpha = ops.where(n.rectified, n.alpha, n.plain * 2.0**64)
        n.kernel_epsilon = ops.where(n.rectified, n.epsilon, 2.0**64)
        return (t,)

    def _rule(self, g: Any, n: _Numbers, m: Any, v: Any) -> tuple[Any, ...]:
        m = n.beta_1.average(m, g)
        v = n.beta_2.average(v, ops.square(g))
        adaptive = n.alpha * m / (ops.sqrt(v) + n.epsilon)
        return ops.where(n.rectified, adaptive, n.plain * m), m, v

    def _has_kernel(self) -> bool:
        return True

    def _kernel(self, theta: Any, g: Any, n: _Numbers, *slots: Any) -> None:
        numbers = dataclasses.replace(n, alpha=n.kernel_alpha, epsilon=n.kernel_epsilon)
        tf_kernels.adam(theta, *slots, g=g, n=numbers)
