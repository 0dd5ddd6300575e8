"""Schedule-Free AdamW: no learning-rate schedule, evaluation at an average."""

import dataclasses
from typing import Any, Unpack

from keras import ops

from kerastools._core.registration import register
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
    eta: Any = None  # η min(1, t/w)
    correction: Any = None  # √(1 − β₂ᵗ)
    c: Any = None


@register
class ScheduleFreeAdamW(MutableOptimizer):
    """Schedule-Free AdamW: steps without a falling learning rate, evaluation at their average.

    Reach for it where the number of steps is not known beforehand: at every moment the average
    stands where a schedule that ends there would have led. Learning rates are 1 to 10 times
    Adam's, with a warm-up of some hundred steps. Train with
    `kerastools.callbacks.EvaluationWeights`, which puts the average into the model for validation,
    checkpoints and the end of training; without it the model is evaluated at y. The moving
    averages of batch normalisation belong to y; recalibrate them at the average.

    With steps z, average x, gradients g taken at y, learning rate η warmed up over w steps, and t
    the number of this variable's steps:

        y = (1 − β₁)z + β₁x
        t ← t + 1
        η ← η · min(1, t/w)
        s ← β₂s + (1 − β₂)g²
        u = g / (√(s / (1 − β₂ᵗ)) + ε) + λy
        z ← z − ηu
        S ← S + η²_max;  c = η²_max / S
        x ← (1 − c)x + cz

    with η_max the largest rate so far. The model holds y; beside it d = z − y is kept, and with it

        y ← y + cd − η(1 − β₁(1 − c))u
        d ← (1 − c)(d − ηβ₁u)
        x = y − (1/β₁ − 1)d

    This agrees with the authors' `schedulefree`, where Keras's class of this name does not
    (its average is of equal weights, its decay acts on y alone, and on TensorFlow it averages z
    with itself). A variable that joins late starts its own average. Weight decay λ acts at y and
    inside the step u, as in the authors' code; with few labels a large one helps: on the 100 of
    `benchmarks/time_to_accuracy`'s W5, 2.0 reaches the target in 19 of 20 trainings, none in 12.

    {{mutable}}

    Args:
        {{learning_rate}}
            The default is the authors' and Keras's; twice that reached the targets of
            `benchmarks/time_to_accuracy` in 112 of 120 trainings.
        beta_1: β₁ in (0, 1): how near the average gradients are taken. Setting it while training
            means another x for the same y and z.
        beta_2: β₂ in [0, 1), the decay rate of the second moment.
        epsilon: ε, at least 0, outside the root, as in the authors' code.
        warmup_steps: w, at least 0.
        {{common_arguments}}

    Raises:
        ValueError: If a number is outside its interval.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = ScheduleFreeAdamW(0.1)
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.9826
    step 40: loss 0.0964
    >>> optimizer.to_evaluation()
    True

    Reference: Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky, "The road less scheduled",
    NeurIPS 2024.
    """

    beta_1 = DecayRate("(0, 1)")
    beta_2 = DecayRate()
    epsilon = Hyperparameter("[0, inf)")

    _numbers = _Numbers
    _scalar_slots = ("step", "largest_rate", "weight_sum")
    _slots = ("velocity", "offset")
    _decays_in_rule = True

    def __init__(
        self,
        learning_rate: Number = 0.0025,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-8,
        warmup_steps: int = 0,
        *args: Any,
        **kwargs: Unpack[CommonArguments],
    ) -> None:
        if int(warmup_steps) != warmup_steps or warmup_steps < 0:
            raise ValueError(
                "ScheduleFreeAdamW needs warmup_steps to be an integer >= 0. Received "
                f"warmup_steps={warmup_steps!r}."
            )
        super().__init__(learning_rate, *args, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.warmup_steps = int(warmup_steps)
        self._add_evaluation_point()

    def _advance(self, n: _Numbers, t: Any, eta_max: Any, total: Any) -> tuple[Any, ...]:
        t = t + 1
        n.eta = n.learning_rate
        if self.warmup_steps:
            n.eta = n.eta * ops.minimum(t / self.warmup_steps, 1.0)
        n.correction = ops.sqrt(n.beta_2.bias(t))
        eta_max = ops.maximum(eta_max, n.eta)
        weight = ops.square(eta_max)
        total = total + weight
        # While η is 0 nothing moves, and there is nothing to average.
        n.c = weight / ops.where(total > 0, total, ops.ones_like(total))
        return t, eta_max, total

    def _rule(self, g: Any, n: _Numbers, s: Any, d: Any) -> tuple[Any, ...]:
        beta_1 = n.beta_1.beta
        s = n.beta_2.average(s, ops.square(g))
        u = g / (ops.sqrt(s) / n.correction + n.epsilon)
        if n.decay is not None:
            u = u + n.decay
        delta = n.eta * (1 - beta_1 * (1 - n.c)) * u - n.c * d
        d = (1 - n.c) * (d - n.eta * beta_1 * u)
        return delta, s, d

    def _evaluation_weights(self, trained: Any, *slots: Any) -> Any:
        return trained - self._reach(slots[-1])  # x = y − (1/β₁ − 1)d

    def _training_weights(self, evaluated: Any, *slots: Any) -> Any:
        return evaluated + self._reach(slots[-1])

    def _reach(self, d: Any) -> Any:
        return (1 / float(ops.convert_to_numpy(self.beta_1)) - 1) * d
