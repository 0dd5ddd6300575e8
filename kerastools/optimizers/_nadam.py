"""Nadam: Adam that looks ahead."""

from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.hyperparameter import DecayRate, Hyperparameter
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer

# How fast the schedule of μ runs: μₜ = β₁(1 − ½ · 0.96^(kt)).
_PACE = {"dozat": 0.004, "keras": 1.0}


@register
class Nadam(MutableOptimizer):
    """Nadam: Adam with Nesterov's momentum, which uses the new gradient twice.

    Often a little faster than Adam at the same learning rate.

    With weights θ, gradient g, learning rate η and t the number of this variable's steps:

        t ← t + 1
        m ← β₁m + (1 − β₁)g
        s ← β₂s + (1 − β₂)g²
        m̄ = (β₁m + (1 − β₁)g) / (1 − β₁ᵗ)
        θ ← θ − η m̄ / √(s / (1 − β₂ᵗ) + ε)

    With a schedule, the momentum grows from β₁/2 to β₁, μₜ = β₁(1 − ½ · 0.96^(kt)), and

        m̄ = μₜ₊₁ m / (1 − μ₁…μₜ₊₁) + (1 − μₜ) g / (1 − μ₁…μₜ)

    Every number is live: `optimizer.beta_1 = 0.8` acts on the running `fit` without tracing
    again. Each may be a function of the step (of real updates, from 0) instead. Each variable
    counts its own steps, so that one that joins late begins with steps of η.

    Args:
        learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`
            or a function of the step.
        beta_1: β₁ in [0, 1), the memory of the mean.
        beta_2: β₂ in [0, 1), the memory of the mean square.
        epsilon: ε, greater than 0, inside the root: compared with squares of gradients, so that
            1e-14 damps those below 1e-7.
        momentum_schedule: `"none"`; `"dozat"`, the paper's and PyTorch's with k = 1/250; or
            `"keras"`, which has k = 1 and is over after a hundred steps.
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
        ValueError: If a number is outside its interval or `momentum_schedule` none of the three.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = Nadam(0.1)
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.0451
    step 40: loss 0.0298
    >>> optimizer.beta_1 = 0.8

    Reference: Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.
    """

    beta_1 = DecayRate()
    beta_2 = DecayRate()
    epsilon = Hyperparameter("(0, inf)")

    scalar_slots = ("step", "weight", "floor")
    slots = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-14,
        momentum_schedule: str = "none",
        **kwargs: Any,
    ) -> None:
        if momentum_schedule not in ("none", *_PACE):
            raise ValueError(
                'Nadam needs momentum_schedule to be "none", "dozat" or "keras". '
                f"Received momentum_schedule={momentum_schedule!r}."
            )
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.momentum_schedule = momentum_schedule

    def advance(self, h: SimpleNamespace, t: Any, weight: Any, floor: Any) -> tuple[Any, ...]:
        """Works out what m and g weigh in the step; `weight` is 1 − μ₁…μₜ, an average of ones."""
        t = t + 1
        mu, mu_next = self._mu(h, t), self._mu(h, t + 1)
        weight = mu * weight + (1 - mu)
        weight_next = mu_next * weight + (1 - mu_next)
        if self.momentum_schedule == "none":
            weight_next = weight
        alpha = h.learning_rate * ops.sqrt(h.beta_2.bias(t))
        h.alpha = alpha / weight
        h.of_mean, h.of_gradient = alpha * mu_next / weight_next, alpha * (1 - mu) / weight
        return t, weight, self.floor_of(h, t, floor)

    def rule(self, g: Any, h: SimpleNamespace, m: Any, v: Any) -> tuple[Any, ...]:
        """Returns Δ and the slots anew."""
        m = h.beta_1.average(m, g)
        v = h.beta_2.average(v, ops.square(g)) + h.lift
        return (h.of_mean * m + h.of_gradient * g) / ops.sqrt(v), m, v

    def has_kernel(self) -> bool:
        """Returns whether TensorFlow has a kernel for this rule."""
        return self.momentum_schedule == "none"

    def fused(self, theta: Any, g: Any, h: SimpleNamespace, *slots: Any) -> None:
        """Does the same with TensorFlow's kernel for Adam."""
        m, v = slots
        self.lift(v, h)
        self.decay(theta, h)
        numbers = (h.alpha, h.beta_1.beta, h.carrier, h.zero, h.zero)
        tf_kernels.adam(theta, m, v, g, *numbers, nesterov=True)

    def _mu(self, h: SimpleNamespace, t: Any) -> Any:
        if self.momentum_schedule == "none":
            return h.beta_1.beta
        return h.beta_1.beta * (1 - 0.5 * 0.96 ** (_PACE[self.momentum_schedule] * t))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        return {**super().get_config(), "momentum_schedule": self.momentum_schedule}
