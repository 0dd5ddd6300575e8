"""Adamax: Adam with another norm than the second."""

from math import inf, isinf
from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.hyperparameter import DecayRate, Hyperparameter
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


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
    p = 2 it is Adam with β₂² and ε outside the root.

    Every number but p is live: `optimizer.beta_2 = 0.99` acts on the running `fit` without tracing
    again. Each may be a function of the step (of real updates, from 0) instead. Each variable
    counts its own steps, so that one that joins late begins with steps of η.

    Args:
        learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`
            or a function of the step.
        beta_1: β₁ in [0, 1), the memory of the mean.
        beta_2: β₂ in [0, 1), by which the norm fades in each step.
        epsilon: ε, greater than 0, beside the norm: it only keeps 0/0 away.
        norm_order: p, at least 1.
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
    epsilon = Hyperparameter("(0, inf)")

    scalar_slots = ("step",)
    slots = ("momentum", "norm")

    def __init__(
        self,
        learning_rate: Any = 2e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        norm_order: float = inf,
        **kwargs: Any,
    ) -> None:
        if not norm_order >= 1:
            raise ValueError(
                f"Adamax needs norm_order to be at least 1. Received norm_order={norm_order!r}."
            )
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.norm_order = float(norm_order)

    def advance(self, h: SimpleNamespace, t: Any) -> tuple[Any, ...]:
        """Works out α = η / (1 − β₁ᵗ) and, for finite p, what the norm is divided by."""
        t, p = t + 1, self.norm_order
        h.alpha = h.learning_rate / h.beta_1.bias(t)
        if not isinf(p):
            h.new = h.beta_2.bias(p)
            h.correction = h.beta_2.bias(p * t) ** (1 / p)
        return (t,)

    def rule(self, g: Any, h: SimpleNamespace, m: Any, u: Any) -> tuple[Any, ...]:
        """Returns Δ and the slots anew."""
        m = h.beta_1.average(m, g)
        faded, new = h.beta_2.beta * u, ops.abs(g)
        largest = ops.maximum(faded, new)
        if isinf(self.norm_order):
            u = u_hat = largest
        else:
            # Powers of ratios to the largest, because those of the numbers over- and underflow.
            p = self.norm_order
            unit = ops.where(largest > 0, largest, ops.ones_like(largest))
            powers = (faded / unit) ** p + h.new * (new / unit) ** p
            u = largest * powers ** (1 / p)
            u_hat = u / h.correction
        return h.alpha * m / (u_hat + h.epsilon), m, u

    def has_kernel(self) -> bool:
        """Returns whether TensorFlow has a kernel for this rule."""
        return isinf(self.norm_order)

    def fused(self, theta: Any, g: Any, h: SimpleNamespace, *slots: Any) -> None:
        """Does the same with TensorFlow's kernel."""
        self.decay(theta, h)
        m, u = slots
        tf_kernels.adamax(theta, m, u, g, h.alpha, h.beta_1.beta, h.beta_2.beta, h.epsilon, h.zero)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        return {**super().get_config(), "norm_order": self.norm_order}
