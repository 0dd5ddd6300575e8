"""Adam and AdamW, with a choice of where ε stands."""

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
    alpha: Any = None  # η √(1 − β₂ᵗ) / (1 − β₁ᵗ)


@register
class Adam(MutableOptimizer):
    """Adam: the step is the mean gradient over the root of its mean square.

    The optimizer to start with; learning rates from 1e-4 to 1e-2. No element moves much further
    than η in one step, whatever the gradient's size.

    With weights θ, gradient g, learning rate η and t the number of this variable's steps:

        t ← t + 1
        m ← β₁m + (1 − β₁)g
        v ← β₂v + (1 − β₂)g²
        m̂ = m / (1 − β₁ᵗ)
        v̂ = v / (1 − β₂ᵗ)
        θ ← θ − η m̂ / (√v̂ + ε / √(1 − β₂ᵗ))      epsilon_mode="hat"
        θ ← θ − η m̂ / (√v̂ + ε)                   epsilon_mode="outside"
        θ ← θ − η m̂ / √(v̂ + ε)                   epsilon_mode="inside"

    `"hat"` is Keras's and the paper's ε̂, the same as η √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε);
    `"outside"` is the paper's algorithm and PyTorch's. With `amsgrad`, the largest v so far stands
    in place of v.

    {{mutable}}

    {{own_steps}}

    Args:
        {{learning_rate}}
        beta_1: β₁ in [0, 1), the decay rate of the first moment.
        beta_2: β₂ in [0, 1), the decay rate of the second moment.
        epsilon: ε, at least 0. Inside the root it is compared with squares of gradients: there
            1e-14 damps gradients below 1e-7, as 1e-7 does in the other places.
        amsgrad: Whether the step is divided by the largest root so far.
        epsilon_mode: `"hat"`, `"outside"` or `"inside"`.
        {{common_arguments}}

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

    References: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015; Reddi, Kale
    and Kumar, "On the convergence of Adam and beyond", ICLR 2018.
    """

    beta_1 = DecayRate()
    beta_2 = DecayRate()
    epsilon = Hyperparameter("[0, inf)")

    _numbers = _Numbers
    _scalar_slots = ("step",)
    _slots: tuple[str, ...] = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: Number = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        amsgrad: bool = False,
        *args: Any,
        epsilon_mode: str = "hat",
        **kwargs: Unpack[CommonArguments],
    ) -> None:
        if epsilon_mode not in ("inside", "outside", "hat"):
            raise ValueError(
                f'{type(self).__name__} needs epsilon_mode to be "hat" (as in Keras), "outside" or '
                f'"inside" (the root). Received epsilon_mode={epsilon_mode!r}.'
            )
        super().__init__(learning_rate, *args, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.amsgrad = amsgrad
        self.epsilon_mode = epsilon_mode
        if amsgrad:
            self._slots = (*self._slots, "largest")

    def _advance(self, n: _Numbers, t: Any) -> tuple[Any, ...]:
        t = t + 1
        bias = n.beta_2.keras_bias(t)
        n.alpha = n.learning_rate * ops.sqrt(bias) / n.beta_1.keras_bias(t)
        if self.epsilon_mode != "hat":
            n.epsilon = n.epsilon * (bias if self.epsilon_mode == "inside" else ops.sqrt(bias))
        return (t,)

    def _rule(self, g: Any, n: _Numbers, m: Any, v: Any, *largest: Any) -> tuple[Any, ...]:
        m = n.beta_1.average(m, g)
        v = v_max = n.beta_2.average(v, ops.square(g))
        if self.amsgrad:
            v_max = ops.maximum(*largest, v)
            largest = (v_max,)
        inside = self.epsilon_mode == "inside"
        root = ops.sqrt(v_max + n.epsilon) if inside else ops.sqrt(v_max) + n.epsilon
        return n.alpha * m / root, m, v, *largest

    def _has_kernel(self) -> bool:
        return self.epsilon_mode != "inside"

    def _kernel(self, theta: Any, g: Any, n: _Numbers, *slots: Any) -> None:
        tf_kernels.adam(theta, *slots, g=g, n=n)


@register
class AdamW(Adam):
    """AdamW: Adam with decoupled weight decay.

    `Adam(weight_decay=0.004)` under the name, and with the order of arguments, that Keras has. The
    weights shrink by the factor 1 − ηλ in each step, apart from the gradient's moments; see `Adam`
    for the rest.

    {{mutable}}

    Args:
        {{learning_rate}}
        beta_1: β₁ in [0, 1), the decay rate of the first moment.
        beta_2: β₂ in [0, 1), the decay rate of the second moment.
        epsilon: ε, at least 0.
        amsgrad: Whether the step is divided by the largest root so far.
        epsilon_mode: `"hat"`, `"outside"` or `"inside"`.
        {{common_arguments}}

    Raises:
        ValueError: If a number is outside its interval or `epsilon_mode` none of the three.

    Example:

    >>> import keras
    >>> theta = keras.Variable([1.0, -2.0])
    >>> optimizer = AdamW(0.1, weight_decay=0.5)
    >>> for step in range(2):
    ...     optimizer.apply([0 * theta], [theta])
    >>> print(keras.ops.convert_to_numpy(theta))
    [ 0.9025 -1.805 ]

    Reference: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    def __init__(
        self,
        learning_rate: Number = 0.001,
        weight_decay: Number | None = 0.004,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        amsgrad: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, *args, **kwargs
        )
