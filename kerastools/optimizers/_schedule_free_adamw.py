"""AdamW that needs no schedule, because it evaluates at an average."""

from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core.registration import register
from kerastools.optimizers._base.hyperparameter import DecayRate, Hyperparameter
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer


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

    This agrees with the authors' `schedulefree`, where Keras's class of this name does not. Every
    number is live: `optimizer.beta_2 = 0.99` acts on the running `fit` without tracing again. Each
    may be a function of the step (of real updates, from 0) instead. A variable that joins late
    begins its own average.

    Args:
        learning_rate: η, at least 0; a number, a `keras.optimizers.schedules.LearningRateSchedule`
            or a function of the step. The authors' and Keras's default is 2.5e-3.
            Ours was chosen on the nets of `benchmarks/time_to_accuracy`, whose targets it reaches
            in 112 of 120 trainings.
        beta_1: β₁ in (0, 1): how near the average gradients are taken. Setting it while training
            means another x for the same y and z.
        beta_2: β₂ in [0, 1), the memory of the mean square.
        epsilon: ε, greater than 0, outside the root, as in the authors' code.
        warmup_steps: w, at least 0.
        weight_decay: λ, at y and inside the step u, as in the authors' code; `None` for none. With
            few labels a large one helps: on the 100 of `benchmarks/time_to_accuracy`'s W5, 2.0
            reaches the target in 19 of 20 trainings, none in 12.
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
    epsilon = Hyperparameter("(0, inf)")

    scalar_slots = ("step", "largest_rate", "weight_sum")
    slots = ("velocity", "offset")
    decays_in_rule = True

    def __init__(
        self,
        learning_rate: Any = 5e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        warmup_steps: int = 0,
        **kwargs: Any,
    ) -> None:
        if int(warmup_steps) != warmup_steps or warmup_steps < 0:
            raise ValueError(
                "ScheduleFreeAdamW needs warmup_steps to be an integer >= 0. Received "
                f"warmup_steps={warmup_steps!r}."
            )
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.warmup_steps = int(warmup_steps)
        self.add_evaluation_point()

    def advance(self, h: SimpleNamespace, t: Any, eta_max: Any, total: Any) -> tuple[Any, ...]:
        """Works out the warmed-up η and the weight c of the new point in the average."""
        t = t + 1
        h.eta = h.learning_rate
        if self.warmup_steps:
            h.eta = h.eta * ops.minimum(t / self.warmup_steps, 1.0)
        h.correction = ops.sqrt(h.beta_2.bias(t))
        eta_max = ops.maximum(eta_max, h.eta)
        weight = ops.square(eta_max)
        total = total + weight
        # While η is 0 nothing moves, and there is nothing to average.
        h.c = weight / ops.where(total > 0, total, ops.ones_like(total))
        return t, eta_max, total

    def rule(self, g: Any, h: SimpleNamespace, s: Any, d: Any) -> tuple[Any, ...]:
        """Returns the step of y and the slots anew."""
        beta_1 = h.beta_1.beta
        s = h.beta_2.average(s, ops.square(g))
        u = g / (ops.sqrt(s) / h.correction + h.epsilon)
        if h.decay is not None:
            u = u + h.decay
        delta = h.eta * (1 - beta_1 * (1 - h.c)) * u - h.c * d
        d = (1 - h.c) * (d - h.eta * beta_1 * u)
        return delta, s, d

    def evaluation_weights(self, trained: Any, *slots: Any) -> Any:
        """Returns x = y − (1/β₁ − 1)d."""
        return trained - self._reach(slots[-1])

    def training_weights(self, evaluated: Any, *slots: Any) -> Any:
        """Returns y = x + (1/β₁ − 1)d."""
        return evaluated + self._reach(slots[-1])

    def _reach(self, d: Any) -> Any:
        return (1 / float(ops.convert_to_numpy(self.beta_1)) - 1) * d

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        return {**super().get_config(), "warmup_steps": self.warmup_steps}
