"""Gradient descent with momentum, and Nesterov's as it is meant."""

from types import SimpleNamespace
from typing import Any

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.hyperparameter import Hyperparameter
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


@register
class SGD(MutableOptimizer):
    """Gradient descent with momentum, plain or Nesterov's.

    Reach for it where a well-tuned learning rate pays, convolutional nets above all; the rate is
    then 10 to 100 times Adam's. Momentum γ lets steps in a constant direction grow up to the
    terminal velocity ηg/(1 − γ), 10 times the plain step at γ = 0.9.

    With weights θ, velocity v, learning rate η, momentum γ and g(θ) the gradient at θ:

        nesterov=False      v ← γv + η g(θ);         θ ← θ − v
        nesterov="exact"    v ← γv + η g(θ − γv);    θ ← θ − v
        nesterov=True       v ← γv + η g(θ);         θ ← θ − (γv + η g(θ))

    `True` is what Keras and PyTorch call Nesterov: it walks along φ = θ − γv, the points at which
    the exact form takes its gradients, and never comes back to θ. `"exact"` trains at φ, too, at
    the same cost, and keeps the look-ahead d = −γv next to it, so that θ = φ − d is known:

        d ← γ(d − η g(φ));    φ ← φ − ηg + d

    `kerastools.callbacks.EvaluationWeights` puts θ into the model for validation, checkpoints and
    the end of training. A momentum that is set while training is used from the next look-ahead on.

    Every number is live: `optimizer.momentum = 0.95` acts on the running `fit` without tracing
    again, which is why the velocity is kept at momentum 0, too (as the displacement d = −v). Each
    may be a function of the step (of real updates, from 0) instead.

    Args:
        learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`
            or a function of the step.
        momentum: γ in [0, 1).
        nesterov: `False`, `True` (as in Keras) or `"exact"`.
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
        ValueError: If a number is outside its interval or `nesterov` none of the three.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = SGD(0.1, momentum=0.9, nesterov="exact")
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.0078
    step 40: loss 0.0000
    >>> optimizer.momentum = 0.5

    References: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964;
    Nesterov, "A method for solving the convex programming problem with convergence rate O(1/k²)",
    1983; Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.
    """

    momentum = Hyperparameter("[0, 1)")

    slots: tuple[str, ...] = ("displacement",)

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool | str = False,
        **kwargs: Any,
    ) -> None:
        if nesterov not in (False, True, "exact"):
            raise ValueError(
                'SGD needs nesterov to be False, True (as in Keras) or "exact". '
                f"Received nesterov={nesterov!r}."
            )
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        if nesterov == "exact":
            self.slots = ("lookahead",)
            self.add_evaluation_point()

    def rule(self, g: Any, h: SimpleNamespace, slot: Any) -> tuple[Any, ...]:
        """Returns Δ and the slot d: −v, or the look-ahead −γv if `nesterov="exact"`."""
        eta, gamma = h.learning_rate, h.momentum
        if self.nesterov == "exact":
            d = gamma * (slot - eta * g)
            return eta * g - d, d
        d = gamma * slot - eta * g
        if self.nesterov:
            return eta * g - gamma * d, d
        return -d, d

    def has_kernel(self) -> bool:
        """Returns whether TensorFlow has a kernel for this rule."""
        return True

    def fused(self, theta: Any, g: Any, h: SimpleNamespace, *slots: Any) -> None:
        """Does the same with TensorFlow's kernel for momentum."""
        self.decay(theta, h)
        eta, gamma = h.learning_rate, h.momentum
        (d,) = slots
        if self.nesterov == "exact":
            tf_kernels.momentum(theta, d, g, gamma * eta, gamma, nesterov=False)
            tf_kernels.subtract(theta, eta, g)
        else:
            tf_kernels.momentum(theta, d, g, eta, gamma, nesterov=bool(self.nesterov))

    def evaluation_weights(self, trained: Any, d: Any) -> Any:
        """Returns θ = φ − d."""
        return trained - d

    def training_weights(self, evaluated: Any, d: Any) -> Any:
        """Returns φ = θ + d."""
        return evaluated + d

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        return {**super().get_config(), "nesterov": self.nesterov}
