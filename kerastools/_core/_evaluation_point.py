"""Optimizers that evaluate at other weights than those they train."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core._slots import known_variables


class EvaluationPoint:
    """What an optimizer has whose gradients are taken beside the weights that are meant.

    An optimizer that does so calls `add_evaluation_point()` in its constructor. Either it keeps the
    weights that are meant beside those that are trained, and `evaluation_pairs` returns both; then
    they change places. Or `evaluation_weights` and `training_weights` say how to get from one to
    the other. Where the model stands is part of the optimizer's state, so that a model saved at its
    evaluation weights is trained on from the right ones.
    """

    def add_evaluation_point(self: Any) -> None:
        """Creates the state that says at which weights the model stands."""
        if self.trains_elsewhere:
            raise ValueError(
                f"This {type(self).__name__} evaluates beside the weights that it trains already; "
                "a moving average of those (use_ema) would be of the wrong ones. Leave use_ema out."
            )
        self._at_evaluation = self.add_variable(shape=(), dtype="int32", name="at_evaluation")
        # Not an attribute of its own: Keras would track the variables in it as the optimizer's.
        self._left = SimpleNamespace(weights={})

    @property
    def trains_elsewhere(self) -> bool:
        """Whether evaluation belongs to other weights than those that are trained."""
        return hasattr(self, "_at_evaluation")

    @property
    def at_evaluation(self: Any) -> bool:
        """Whether the model holds its evaluation weights now."""
        return self.trains_elsewhere and bool(ops.convert_to_numpy(self._at_evaluation))

    def evaluation_pairs(self) -> Sequence[tuple[Any, Any]]:
        """Returns each variable with the one that holds its other weights; none if computed."""
        return ()

    def evaluation_weights(self, trained: Any, *slots: Any) -> Any:
        """Returns the weights to evaluate at, given those that are trained and their slots."""
        raise NotImplementedError

    def training_weights(self, evaluated: Any, *slots: Any) -> Any:
        """Returns the weights to train at, given those to evaluate at and their slots."""
        raise NotImplementedError

    def to_evaluation(self: Any) -> bool:
        """Puts the evaluation weights into the model; returns whether they were not there."""
        if self.at_evaluation or not (self.built and self.trains_elsewhere):
            return False
        pairs = self.evaluation_pairs()
        _swap(pairs)
        for variable, slots in () if pairs else self._variables_and_slots():
            trained = ops.copy(variable)
            self._left.weights[id(variable)] = (variable, trained)
            variable.assign(self.evaluation_weights(trained, *slots))
        self._at_evaluation.assign(1)
        return True

    def to_training(self: Any) -> None:
        """Puts the training weights back into the model; bitwise, if nobody changed the model."""
        if not self.at_evaluation:
            return
        pairs = self.evaluation_pairs()
        _swap(pairs)
        for variable, slots in () if pairs else self._variables_and_slots():
            _, left = self._left.weights.get(id(variable), (None, None))
            evaluated = ops.copy(variable)
            if left is None or not _equal(evaluated, self.evaluation_weights(left, *slots)):
                left = self.training_weights(evaluated, *slots)
            variable.assign(left)
        self._left.weights.clear()
        self._at_evaluation.assign(0)

    def apply(self: Any, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables; whoever trains stands at the training weights."""
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        if self.trains_elsewhere:
            self._at_evaluation.assign(0)

    def _variables_and_slots(self: Any) -> Iterator[tuple[Any, list[Any]]]:
        for i, variable in enumerate(known_variables(self)):
            slots = self.slots_of(i)
            if slots[0] is not None:
                yield variable, [ops.cast(slot, variable.dtype) for slot in slots]


def _swap(pairs: Sequence[tuple[Any, Any]]) -> None:
    for variable, other in pairs:
        held = ops.copy(variable)  # JAX may not be given one buffer under two names.
        variable.assign(ops.copy(other))
        other.assign(held)


def _equal(a: Any, b: Any) -> bool:
    return bool(ops.convert_to_numpy(ops.all(ops.equal(a, b))))
