"""Adagrad: every weight has a rate of its own, which only falls."""

from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.hyperparameter import Hyperparameter
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


@register
class Adagrad(MutableOptimizer):
    """Adagrad: the step is the gradient over the root of the sum of all its squares.

    Suits sparse features, whose rare weights keep a large rate; in deep nets the rate falls until
    training stops, and `RMSprop` or `Adam` go further. Learning rates are 10 to 100 times Adam's.

    With weights θ, gradient g and learning rate η:

        G ← G + g²
        θ ← θ − ηg / √(G + ε)

    Keras's `Adagrad` begins with G = 0.1; since ε stands under the same root, `epsilon=0.1` is the
    same here. Every number is live: `optimizer.epsilon = 1e-6` acts on the running `fit` without
    tracing again. Each may be a function of the step (of real updates, from 0) instead.

    Args:
        learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`
            or a function of the step.
        epsilon: ε, greater than 0, compared with squares of gradients; 1e-14 damps those below
            1e-7.
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

    epsilon = Hyperparameter("(0, inf)")

    scalar_slots = ("floor",)
    slots = ("accumulator",)

    def __init__(self, learning_rate: Any = 0.01, epsilon: float = 1e-14, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.epsilon = epsilon

    def advance(self, h: SimpleNamespace, floor: Any) -> tuple[Any, ...]:
        """Works out what the slot, which holds G + ε, has more than that."""
        h.sunk = floor - h.epsilon
        return (h.epsilon * ops.ones_like(floor),)

    def rule(self, g: Any, h: SimpleNamespace, accumulator: Any) -> tuple[Any, ...]:
        """Returns Δ and the sum of squares."""
        accumulator = accumulator - h.sunk + ops.square(g)
        return h.learning_rate * g / ops.sqrt(accumulator), accumulator

    def has_kernel(self) -> bool:
        """Returns whether TensorFlow has a kernel for this rule."""
        return True

    def fused(self, theta: Any, g: Any, h: SimpleNamespace, *slots: Any) -> None:
        """Does the same with TensorFlow's kernel for Adagrad."""
        (accumulator,) = slots
        self.lift(accumulator, h)
        self.decay(theta, h)
        tf_kernels.adagrad(theta, accumulator, g, h.learning_rate)
