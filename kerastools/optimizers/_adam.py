"""Adam, with a choice of where ε stands."""

from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.hyperparameter import DecayRate, Hyperparameter
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


@register
class Adam(MutableOptimizer):
    """Adam: the step is the mean gradient over the root of its mean square.

    The optimizer to begin with; learning rates from 1e-4 to 1e-2. No element moves much further
    than η in one step, whatever the gradient's size.

    With weights θ, gradient g, learning rate η and t the number of this variable's steps:

        t ← t + 1
        m ← β₁m + (1 − β₁)g
        s ← β₂s + (1 − β₂)g²
        m̂ = m / (1 − β₁ᵗ)
        ŝ = s / (1 − β₂ᵗ)
        θ ← θ − η m̂ / √(ŝ + ε)                   epsilon_mode="inside"
        θ ← θ − η m̂ / (√ŝ + ε)                   epsilon_mode="outside"
        θ ← θ − η m̂ / (√ŝ + ε / √(1 − β₂ᵗ))      epsilon_mode="hat"

    `"outside"` is the paper's algorithm and PyTorch's; `"hat"` is the paper's ε̂ and Keras's, the
    same as η √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√s + ε).

    With `amsgrad`, the largest s so far stands in place of s.

    Every number is live: `optimizer.beta_1 = 0.8` acts on the running `fit` without tracing
    again. Each may be a function of the step (of real updates, from 0) instead. Each variable
    counts its own steps, so that one that joins late (a layer unfrozen) begins with steps of η;
    with Keras's common count they are up to 5.9 times as long. Slots are float32 at least: in
    bfloat16, β₂ = 0.999 would be 1.

    Args:
        learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`
            or a function of the step.
        beta_1: β₁ in [0, 1), the memory of the mean.
        beta_2: β₂ in [0, 1), the memory of the mean square.
        epsilon: ε, greater than 0; by default 1e-7, and its square 1e-14 inside the root, where it
            is compared with squares: 1e-8 there would damp gradients below 1e-4, which a mean over
            many outputs easily has.
        epsilon_mode: `"inside"`, `"outside"` or `"hat"`.
        amsgrad: Whether the step is divided by the largest root so far.
        weight_decay: λ of decoupled decay (AdamW), θ ← θ − ηλθ, at each step; `None` for none.
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
        ValueError: If a number is outside its interval or `epsilon_mode` none of the three.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = Adam(0.1)
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.1230
    step 40: loss 0.0648
    >>> optimizer.beta_1 = 0.8

    References: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015; Loshchilov
    and Hutter, "Decoupled weight decay regularization", ICLR 2019; Reddi, Kale and Kumar, "On the
    convergence of Adam and beyond", ICLR 2018.
    """

    beta_1 = DecayRate()
    beta_2 = DecayRate()
    epsilon = Hyperparameter("(0, inf)")

    scalar_slots = ("step", "floor")
    slots: tuple[str, ...] = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float | None = None,
        epsilon_mode: str = "inside",
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        if epsilon_mode not in ("inside", "outside", "hat"):
            raise ValueError(
                'Adam needs epsilon_mode to be "inside" (the root), "outside" or "hat" (as in '
                f"Keras). Received epsilon_mode={epsilon_mode!r}."
            )
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        if epsilon is None:
            epsilon = 1e-14 if epsilon_mode == "inside" else 1e-7
        self.epsilon = epsilon
        self.epsilon_mode = epsilon_mode
        self.amsgrad = amsgrad
        if amsgrad:
            self.slots = (*self.slots, "largest")

    @property
    def _lifts(self) -> bool:
        """Whether the slot `velocity` is V = s + floor."""
        return self.epsilon_mode == "inside" and not self.amsgrad

    def advance(self, h: SimpleNamespace, t: Any, floor: Any) -> tuple[Any, ...]:
        """Works out α and ε′ of θ ← θ − αm / (√V + ε′), and what V is to be more than s."""
        t = t + 1
        correction = h.beta_2.bias(t)
        h.alpha = h.learning_rate * ops.sqrt(correction) / h.beta_1.bias(t)
        if self._lifts:
            h.outside = h.zero
            floor = self.floor_of(h, t, floor)
        elif self.epsilon_mode == "inside":
            h.inside = h.epsilon * correction
        else:
            at_hat = self.epsilon_mode == "hat"
            h.outside = h.epsilon if at_hat else h.epsilon * ops.sqrt(correction)
        return t, floor

    def rule(self, g: Any, h: SimpleNamespace, m: Any, v: Any, *largest: Any) -> tuple[Any, ...]:
        """Returns Δ and the slots anew."""
        m = h.beta_1.average(m, g)
        v = h.beta_2.average(v, ops.square(g))
        if self._lifts:
            v = v + h.lift
            return h.alpha * m / ops.sqrt(v), m, v
        if self.amsgrad:
            largest = (ops.maximum(*largest, v),)
        v_max = largest[0] if self.amsgrad else v
        inside = self.epsilon_mode == "inside"
        root = ops.sqrt(v_max + h.inside) if inside else ops.sqrt(v_max) + h.outside
        return h.alpha * m / root, m, v, *largest

    def has_kernel(self) -> bool:
        """Returns whether TensorFlow has a kernel for this rule."""
        return not (self.amsgrad and self.epsilon_mode == "inside")

    def fused(self, theta: Any, g: Any, h: SimpleNamespace, *slots: Any) -> None:
        """Does the same with TensorFlow's kernel for Adam."""
        m, v, *largest = slots
        if self._lifts:
            self.lift(v, h)
        self.decay(theta, h)
        beta_2 = h.carrier if self._lifts else h.beta_2.beta
        numbers = (h.alpha, h.beta_1.beta, beta_2, h.outside, h.zero)
        tf_kernels.adam(theta, m, v, g, *numbers, largest=largest[0] if largest else None)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        config = super().get_config()
        return {**config, "epsilon_mode": self.epsilon_mode, "amsgrad": self.amsgrad}
