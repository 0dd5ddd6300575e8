"""Lookahead: any optimizer runs ahead, slow weights follow."""

from typing import Any

from keras import ops

from kerastools._core.keras_private.optimizer_hooks import known_variables
from kerastools._core.registration import register
from kerastools.optimizers._base.evaluation_point import EvaluationPoint
from kerastools.optimizers._base.wrapped_optimizer import WrappedOptimizer


@register
class Lookahead(EvaluationPoint, WrappedOptimizer):
    """Lookahead: every k steps, the weights go back part of the way to where they were.

    Calms an optimizer whose learning rate is high for its noise; costs one more copy of the
    weights and no gradient. With slow weights φ, fast weights θ that `inner_optimizer` moves, and
    step size α, after every k updates

        φ ← φ + α(θ − φ);    θ ← φ

    The slow weights are those that are meant: `kerastools.callbacks.EvaluationWeights` puts them
    into the model for validation, checkpoints and the end of training. The slots of the inner
    optimizer run on. With gradient accumulation k counts real updates.

    Args:
        inner_optimizer: Any `keras.optimizers.Optimizer` that evaluates where it trains.
        sync_period: k, a whole number of updates, at least 1.
        slow_step_size: α in (0, 1].
        name: Name of the optimizer.

    Raises:
        TypeError: If `inner_optimizer` is no optimizer.
        ValueError: If a number is outside its interval, or `inner_optimizer` evaluates elsewhere
            than it trains (exact Nesterov momentum, Schedule-Free, a moving average).

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from kerastools.optimizers import SGD
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = Lookahead(SGD(0.1), sync_period=5)
    >>> for step in range(41):
    ...     if step % 20 == 0:
    ...         print(f"step {step}: loss {float(keras.ops.sum(theta * theta)):.4f}")
    ...     optimizer.apply([2 * theta], [theta])
    step 0: loss 5.0000
    step 20: loss 0.1886
    step 40: loss 0.0071
    >>> optimizer.learning_rate = 0.05

    Reference: Zhang, Lucas, Hinton and Ba, "Lookahead optimizer: k steps forward, 1 step back",
    NeurIPS 2019.
    """

    def __init__(
        self,
        inner_optimizer: Any,
        sync_period: int = 6,
        slow_step_size: float = 0.5,
        name: str | None = None,
    ) -> None:
        if int(sync_period) != sync_period or sync_period < 1:
            raise ValueError(
                "Lookahead needs sync_period to be a whole number >= 1. Received "
                f"sync_period={sync_period!r}."
            )
        if not 0 < slow_step_size <= 1:
            raise ValueError(
                "Lookahead needs slow_step_size to be in (0, 1]. Received "
                f"slow_step_size={slow_step_size!r}."
            )
        super().__init__(inner_optimizer, name=name)
        inside = isinstance(inner_optimizer, EvaluationPoint) and inner_optimizer._trains_elsewhere
        if inside or inner_optimizer.use_ema:
            raise ValueError(
                f"Lookahead received a {type(inner_optimizer).__name__} that evaluates at other "
                "weights than it trains. Only one of the two can say which weights are meant."
            )
        self.sync_period = int(sync_period)
        self.slow_step_size = float(slow_step_size)
        self._add_evaluation_point()
        self._calls = self.add_variable(
            shape=(), dtype="int32", aggregation="only_first_replica", name="calls"
        )

    def build(self, variables: list[Any]) -> None:
        """Creates the slow weights, which begin at `variables`."""
        super().build(variables)
        self._slow_slots = self._starting_at(variables, "slow")

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables, and brings both weights together when it is time."""
        if not self.built:
            self.build(list(trainable_variables or []))
        self.inner_optimizer.apply(grads, trainable_variables)
        self._calls.assign(self._calls + 1)
        period = self.sync_period * (self.inner_optimizer.gradient_accumulation_steps or 1)
        together = ops.equal(ops.mod(self._calls.value, period), 0)
        for fast, slow in self._evaluation_pairs():
            theta, phi = ops.convert_to_tensor(fast), ops.convert_to_tensor(slow)
            new = phi + self.slow_step_size * (theta - phi)
            fast.assign(ops.where(together, new, theta))
            slow.assign(ops.where(together, new, phi))
        self._at_evaluation.assign(0)

    def _evaluation_pairs(self) -> list[tuple[Any, Any]]:
        """Returns each variable with its slow weights."""
        pairs = zip(known_variables(self), self._slow_slots, strict=True)
        return [(fast, slow) for fast, slow in pairs if slow is not None]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = {"sync_period": self.sync_period, "slow_step_size": self.slow_step_size}
        return {**super().get_config(), **config}
