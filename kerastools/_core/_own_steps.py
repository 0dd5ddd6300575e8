"""Own step counts for variables that join one of Keras's optimizers late."""

from typing import Any

import keras
from keras import ops


def count_own_steps(optimizer: Any, joined: list[int]) -> None:
    """Makes `optimizer` correct the bias of each slot by the steps that its variable has taken.

    Keras's optimizers of Adam's kind divide by 1 − βᵗ with the t of the whole run, which is right
    for a slot that began with the run. A slot that begins at 0 in step 2000 is as biased as one in
    step 1, and its variable would step by up to 5.9 learning rates. The step is linear in the
    learning rate, so the learning rate that such a variable is given makes up for the difference.

    `update_step` is the method by which Keras's optimizers are extended; here it is replaced on the
    one object. Configuration and state are untouched, and an optimizer of another kind is left as
    it is.

    Args:
        optimizer: An optimizer that is built.
        joined: For each of its variables the number of steps that the run had taken before.
    """
    if _corrections(optimizer) is None:
        return
    plain = optimizer.update_step
    if isinstance(plain, _OwnSteps):
        plain = optimizer.update_step = plain.plain
    if any(joined):
        optimizer.update_step = _OwnSteps(optimizer, plain, joined)


def joined_at(optimizer: Any) -> list[int]:
    """Returns for each variable of `optimizer` the number of steps the run had taken before it."""
    step = optimizer.update_step
    if isinstance(step, _OwnSteps):
        return list(step.joined)
    return [0] * len(optimizer._trainable_variables)


class _OwnSteps:
    def __init__(self, optimizer: Any, plain: Any, joined: list[int]) -> None:
        self.optimizer = optimizer
        self.plain = plain
        self.joined = joined

    def __call__(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        # The only way from the raw tf.Variable that arrives here to the model's variable.
        index = self.optimizer._get_variable_index(variable)
        if self.joined[index]:
            dtype = keras.backend.result_type(variable.dtype, "float32")
            t = ops.cast(self.optimizer.iterations + 1, dtype)
            ratio = self._bias(index, t - self.joined[index]) / self._bias(index, t)
            learning_rate = ops.cast(learning_rate, dtype) * ratio
        return self.plain(gradient, variable, learning_rate)

    def _bias(self, index: int, t: Any) -> Any:
        """Returns what Keras multiplies the learning rate by in step t."""
        bias = 1.0
        for beta, power in _corrections(self.optimizer, index) or ():
            # 1 − βᵗ, exact also where β is near 1.
            bias = bias * (-ops.expm1(t * ops.log(ops.cast(beta, t.dtype)))) ** power
        return bias


def _corrections(optimizer: Any, index: int | None = None) -> tuple[tuple[Any, float], ...] | None:
    """Returns the (β, power) for which `optimizer` scales its steps by the product of (1 − βᵗ)ᵖ.

    None for optimizers that do not count steps, or whose steps cannot be mended so: those start
    anew as they start at first, or bound their step by other means (Lamb, Adafactor).
    """
    kinds = keras.optimizers
    if isinstance(optimizer, kinds.Adam):
        return (optimizer.beta_2, 0.5), (optimizer.beta_1, -1.0)
    if isinstance(optimizer, kinds.Nadam | kinds.ScheduleFreeAdamW):
        return ((optimizer.beta_2, 0.5),)
    if isinstance(optimizer, kinds.Adamax):
        return ((optimizer.beta_1, -1.0),)
    if isinstance(optimizer, kinds.Muon):
        # Muon hands embeddings, biases and the like to Adam; those have a second moment.
        if index is not None and optimizer.adam_velocities[index] is None:
            return ()
        return (optimizer.adam_beta_2, 0.5), (optimizer.adam_beta_1, -1.0)
    return None
