"""Gradient descent with momentum, plain, Nesterov as Keras has it, and exact Nesterov."""

import dataclasses
from typing import Any, Unpack

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.arguments import CommonArguments, Number
from kerastools.optimizers._base.hyperparameter import Hyperparameter, StepNumbers
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


@dataclasses.dataclass(kw_only=True)
class _Numbers(StepNumbers):
    momentum: Any


@register
class SGD(MutableOptimizer):
    """Gradient descent with momentum, plain or Nesterov.

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

    {{mutable}}
    The velocity is kept at momentum 0 too (as the displacement d = −v), so that γ can be raised
    while training; that of an embedding, whose rows alone are moved at momentum 0, then starts.

    Args:
        {{learning_rate}}
        momentum: γ in [0, 1].
        nesterov: `False`, `True` (as in Keras) or `"exact"`.
        {{common_arguments}}

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

    momentum = Hyperparameter("[0, 1]")

    _numbers = _Numbers
    _slots: tuple[str, ...] = ("displacement",)

    def __init__(
        self,
        learning_rate: Number = 0.01,
        momentum: Number = 0.0,
        nesterov: bool | str = False,
        *args: Any,
        **kwargs: Unpack[CommonArguments],
    ) -> None:
        if nesterov not in (False, True, "exact"):
            raise ValueError(
                'SGD needs nesterov to be False, True (as in Keras) or "exact". '
                f"Received nesterov={nesterov!r}."
            )
        super().__init__(learning_rate, *args, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        if nesterov == "exact":
            self._slots = ("lookahead",)
            self._add_evaluation_point()

    def _rule(self, g: Any, n: _Numbers, d: Any) -> tuple[Any, ...]:
        eta, gamma = n.learning_rate, n.momentum
        if self.nesterov == "exact":
            d = gamma * (d - eta * g)
            return eta * g - d, d
        d = gamma * d - eta * g
        return (eta * g - gamma * d if self.nesterov else -d), d

    def _leaves_zero_rows(self, n: _Numbers) -> Any:
        return self.nesterov != "exact" and ops.equal(n.momentum, 0)

    def _rule_of_rows(self, g: Any, n: _Numbers, d: Any) -> tuple[Any, ...]:
        return n.learning_rate * g, ops.zeros_like(d)

    def _has_kernel(self) -> bool:
        return True

    def _kernel(self, theta: Any, g: Any, n: _Numbers, *slots: Any) -> None:
        (d,), eta, gamma = slots, n.learning_rate, n.momentum
        if self.nesterov == "exact":
            tf_kernels.momentum(theta, d, g, gamma * eta, gamma, nesterov=False)
            tf_kernels.subtract(theta, eta, g)
        else:
            tf_kernels.momentum(theta, d, g, eta, gamma, nesterov=bool(self.nesterov))

    def _evaluation_weights(self, trained: Any, *slots: Any) -> Any:
        return trained - slots[0]  # θ = φ − d

    def _training_weights(self, evaluated: Any, *slots: Any) -> Any:
        return evaluated + slots[0]
