"""Learning rates of single variables, in any optimizer that has one for all."""

from typing import Any

import keras
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import known_variables, variable_index
from kerastools._core.keras_private.patched import patched


def joined_at(optimizer: Any) -> dict[int, int]:
    """Returns, by id of the variable, how many steps the run had taken before it joined."""
    sizes = vars(optimizer).get("step_sizes")
    return dict(sizes.joined) if sizes else {}


def set_joined(optimizer: Any, joined: dict[int, int]) -> None:
    """Lets variables count their own steps where Keras's optimizer counts those of the run.

    Keras's optimizers of Adam's kind divide by 1 − βᵗ with the t of the whole run, which is right
    for a slot that began with the run. A slot that begins at 0 in step 2000 is as biased as one in
    step 1, and its variable would step by up to 5.9 learning rates. The step is linear in the
    learning rate, so the one that such a variable is given makes up for the difference.

    Args:
        optimizer: An optimizer that is built; one of another kind is left as it is.
        joined: For each variable that joined late, by id, the steps that the run had taken before.
    """
    if _corrections(optimizer) is not None:
        _replace(optimizer, joined=joined)


def set_factors(optimizer: Any, factors: dict[int, float]) -> None:
    """Multiplies the learning rate of single variables, by id; an empty dict ends it.

    It takes effect when the training step is compiled again. Weight decay that Keras applies apart
    from the step is not scaled.
    """
    if hasattr(optimizer, "_set_rate_factors"):  # One of ours.
        optimizer._set_rate_factors(factors)
    else:
        _replace(optimizer, factors=factors)


def _replace(optimizer: Any, **changes: Any) -> None:
    # `update_step` is the method by which Keras's optimizers are extended; here it is replaced on
    # the one object. Configuration and saved state are untouched.
    sizes = vars(optimizer).pop("step_sizes", None) or _StepSizes(optimizer)
    sizes.patch.undo()
    vars(sizes).update(changes)
    if sizes.joined or sizes.factors:
        sizes.patch = patched(optimizer, update_step=sizes.update_step)
        vars(optimizer)["step_sizes"] = sizes


class _StepSizes:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.joined: dict[int, int] = {}
        self.factors: dict[int, float] = {}
        self.patch = patched(optimizer)

    def update_step(self, plain: Any, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Calls the optimizer's own `update_step`, `plain`, with the variable's own rate."""
        index = variable_index(self.optimizer, variable)
        key = id(known_variables(self.optimizer)[index])
        dtype = keras.backend.result_type(variable.dtype, "float32")
        if self.joined.get(key):
            t = ops.cast(self.optimizer.iterations + 1, dtype)
            ratio = self._bias(index, t - self.joined[key]) / self._bias(index, t)
            learning_rate = ops.cast(learning_rate, dtype) * ratio
        if self.factors.get(key, 1.0) != 1.0:
            learning_rate = ops.cast(learning_rate, dtype) * self.factors[key]
        return plain(gradient, variable, learning_rate)

    def _bias(self, index: int, t: Any) -> Any:
        """Returns what Keras multiplies the learning rate by in step t."""
        bias = 1.0
        for beta, power in _corrections(self.optimizer, index) or ():
            # 1 − βᵗ, exact also where β is near 1.
            bias = bias * (-ops.expm1(t * ops.log(ops.cast(beta, t.dtype)))) ** power
        return bias


def _corrections(optimizer: Any, index: int | None = None) -> tuple[tuple[Any, float], ...] | None:
    """Returns the (β, power) for which `optimizer` scales its steps by the product of (1 − βᵗ)ᵖ.

    None for optimizers that do not count steps, or whose steps cannot be corrected so: those start
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
