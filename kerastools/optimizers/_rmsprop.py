"""RMSprop: Adagrad that forgets."""

from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.hyperparameter import DecayRate, Hyperparameter
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


@register
class RMSprop(MutableOptimizer):
    """RMSprop: the step is the gradient over the root of its mean square.

    A steady choice for recurrent nets and reinforcement learning; learning rates like Adam's. The
    mean square begins at 0 and is not corrected for it, so that the first steps are up to
    1/√(1 − ρ) times as long as the later ones.

    With weights θ, gradient g and learning rate η:

        G ← ρG + (1 − ρ)g²
        θ ← θ − ηg / √(G + ε)

    With `centered`, the variance stands under the root: ḡ ← ρḡ + (1 − ρ)g, and G − ḡ² in place of
    G. With `momentum` γ, v ← γv + ηg/√(G + ε) and θ ← θ − v.

    Every number is live: `optimizer.rho = 0.99` acts on the running `fit` without tracing
    again. Each may be a function of the step (of real updates, from 0) instead.

    Args:
        learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`
            or a function of the step.
        rho: ρ in [0, 1), the memory of the mean square.
        epsilon: ε, greater than 0, compared with squares of gradients; 1e-14 damps those below
            1e-7.
        momentum: γ in [0, 1), or `None` for none, which saves the velocity.
        centered: Whether the variance takes the place of the mean square.
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
    2012; Graves, "Generating sequences with recurrent neural networks", 2013 (centred).
    """

    rho = DecayRate()
    epsilon = Hyperparameter("(0, inf)")
    momentum = Hyperparameter("[0, 1)")

    scalar_slots: tuple[str, ...] = ()
    slots: tuple[str, ...] = ("mean_square",)

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        rho: float = 0.9,
        epsilon: float = 1e-14,
        momentum: float | None = None,
        centered: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.rho = rho
        self.epsilon = epsilon
        self.momentum = momentum
        self.centered = centered
        if self._lifts:
            self.scalar_slots = ("floor",)
        if centered:
            self.slots = (*self.slots, "mean")
        if momentum is not None:
            self.slots = (*self.slots, "velocity")

    @property
    def _lifts(self) -> bool:
        """Whether the slot `mean_square` is G + ε, so that the root needs no ε."""
        return self.momentum is None and not self.centered

    def advance(self, h: SimpleNamespace, *floor: Any) -> tuple[Any, ...]:
        """Works out what is added to ρ(G + floor) to make it ρG + ε."""
        if not self._lifts:
            return ()
        h.lift = h.epsilon - h.rho.beta * floor[0]
        h.sunk = -h.lift
        # A kernel that adds g² is given g √(1 − ρ).
        h.scale = ops.sqrt(h.rho.complement)
        h.scaled_rate = h.learning_rate / h.scale
        return (h.epsilon * ops.ones_like(floor[0]),)

    def rule(self, g: Any, h: SimpleNamespace, square: Any, *more: Any) -> tuple[Any, ...]:
        """Returns Δ and the slots anew."""
        square = h.rho.average(square, ops.square(g))
        if self._lifts:
            square = square + h.lift
            return h.learning_rate * g / ops.sqrt(square), square
        slots = [square]
        spread = square
        if self.centered:
            mean = h.rho.average(more[0], g)
            slots.append(mean)
            # A variance, but rounding may take it below 0.
            spread = ops.maximum(square - ops.square(mean), 0)
        delta = h.learning_rate * g / ops.sqrt(spread + h.epsilon)
        if h.momentum is not None:
            delta = h.momentum * more[-1] + delta
            slots.append(delta)
        return delta, *slots

    def has_kernel(self) -> bool:
        """Returns whether TensorFlow has a kernel for this rule."""
        return not self.centered

    def fused(self, theta: Any, g: Any, h: SimpleNamespace, *slots: Any) -> None:
        """Does the same with TensorFlow's kernel; without a velocity, with Adagrad's."""
        self.decay(theta, h)
        if self._lifts:
            (square,) = slots
            tf_kernels.subtract(square, h.rho.complement, ops.convert_to_tensor(square))
            self.lift(square, h)
            tf_kernels.adagrad(theta, square, h.scale * g, h.scaled_rate)
            return
        square, v = slots
        numbers = (h.learning_rate, h.rho.beta, h.momentum, h.epsilon)
        tf_kernels.rmsprop(theta, square, v, g, *numbers)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        return {**super().get_config(), "centered": self.centered}
