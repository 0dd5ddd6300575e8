"""RAdam: Adam that begins carefully."""

from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.hyperparameter import DecayRate, Hyperparameter
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


@register
class RAdam(MutableOptimizer):
    """Rectified Adam: Adam whose first steps are as short as their variance is large.

    Takes the place of a warm-up of the learning rate; learning rates like Adam's. For the first
    four steps or so, in which the mean square says nothing, it is gradient descent with momentum.

    With weights θ, gradient g, learning rate η, t the number of this variable's steps and
    ρ_∞ = 2/(1 − β₂) − 1:

        t ← t + 1
        m ← β₁m + (1 − β₁)g
        s ← β₂s + (1 − β₂)g²
        m̂ = m / (1 − β₁ᵗ)
        ρ = ρ_∞ − 2tβ₂ᵗ / (1 − β₂ᵗ)
        r = √((ρ − 4)(ρ − 2)ρ_∞ / ((ρ_∞ − 4)(ρ_∞ − 2)ρ))
        θ ← θ − η r m̂ √(1 − β₂ᵗ) / (√s + ε)    if ρ ≥ 5, else    θ ← θ − η m̂

    The paper takes ρ > 4 for the boundary; the authors' code, and with it everybody's, 5.

    Every number is live: `optimizer.beta_1 = 0.8` acts on the running `fit` without tracing
    again. Each may be a function of the step (of real updates, from 0) instead. Each variable
    counts its own steps, so that one that joins late is rectified as a new one is.

    Args:
        learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`
            or a function of the step.
        beta_1: β₁ in [0, 1), the memory of the mean.
        beta_2: β₂ in [0, 1), the memory of the mean square. Below 0.6 nothing is ever rectified.
        epsilon: ε, greater than 0, beside √s, as in the authors' code.
        weight_decay: λ of decoupled decay, θ ← θ − ηλθ, at each step; `None` for none.
        clipvalue: Gradients are clipped to [−c, c], element by element.
        clipnorm: Each variable's gradient is scaled back to this norm where it is longer.
        global_clipnorm: All gradients together are scaled back to this norm.
        adaptive_clipnorm: Each unit's gradient is scaled back to this many times the norm of its
            weights (Brock et al. 2021; 0.01 there). The four can be combined; they act in this
            order, under `tf.distribute` on the sum over replicas.
        skip_nonfinite: Whether a step with a gradient that is NaN or infinite is left out: weights
            and slots stay as they are, `skipped_steps` counts it. With this or `global_clipnorm`,
            `gradient_norm` holds the norm of the last step and `clipped_steps` counts too.
        param_groups: `ParamGroup`s, variables with numbers of their own.
        **kwargs: `name`, `use_ema`, `ema_momentum`, `loss_scale_factor` and
            `gradient_accumulation_steps`, as in `keras.optimizers.Optimizer`; but the moving
            average moves once per real update and is of the constrained weights, and
            `kerastools.callbacks.EvaluationWeights` puts it into the model and out again.

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
    epsilon = Hyperparameter("(0, inf)")

    scalar_slots = ("step",)
    slots = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def advance(self, h: SimpleNamespace, t: Any) -> tuple[Any, ...]:
        """Works out the rectification, and whether there is one yet."""
        t = t + 1
        bias = h.beta_2.bias(t)
        rho_inf = 2 / h.beta_2.complement - 1
        rho = rho_inf - 2 * t * (1 - bias) / bias
        h.rectified = rho >= 5
        safe = ops.where(h.rectified, rho, 5.0)
        # With β₂ so small that ρ_∞ ≤ 4 no ρ reaches 5; the quotient below must not be 0/0 for it.
        safe_inf = ops.maximum(rho_inf, 5.0)
        r2 = (safe - 4) * (safe - 2) * safe_inf / ((safe_inf - 4) * (safe_inf - 2) * safe)
        h.plain = h.learning_rate / h.beta_1.bias(t)
        h.alpha = h.plain * ops.sqrt(r2 * bias)
        # For a kernel: α / (√s + ε) is the plain rate where ε is so large that √s is nothing to it.
        h.large = ops.where(h.rectified, h.epsilon, 2.0**64)
        h.large_rate = ops.where(h.rectified, h.alpha, h.plain * 2.0**64)
        return (t,)

    def rule(self, g: Any, h: SimpleNamespace, m: Any, s: Any) -> tuple[Any, ...]:
        """Returns Δ and the slots anew."""
        m = h.beta_1.average(m, g)
        s = h.beta_2.average(s, ops.square(g))
        adaptive = h.alpha * m / (ops.sqrt(s) + h.epsilon)
        return ops.where(h.rectified, adaptive, h.plain * m), m, s

    def has_kernel(self) -> bool:
        """Returns whether TensorFlow has a kernel for this rule."""
        return True

    def fused(self, theta: Any, g: Any, h: SimpleNamespace, *slots: Any) -> None:
        """Does the same with TensorFlow's kernel for Adam."""
        m, s = slots
        self.decay(theta, h)
        numbers = (h.large_rate, h.beta_1.beta, h.beta_2.beta, h.large, h.zero)
        tf_kernels.adam(theta, m, s, g, *numbers)
