"""Optimizers that evaluate at other weights than those they train."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core._live_optimizer import LiveOptimizer
from kerastools._core._slots import known_variables


class EvaluationPoint(LiveOptimizer):
    """Base of optimizers whose gradients are taken beside the weights that are meant.

    A subclass that does so calls `add_evaluation_point()` in its constructor and says with
    `evaluation_weights` and `training_weights` how to get from one to the other. Where the model
    stands is part of the optimizer's state, so that a model saved at its evaluation weights is
    trained on from the right ones.
    """

    def add_evaluation_point(self) -> None:
        """Creates the state that says at which weights the model stands."""
        self._at_evaluation = self.add_variable(shape=(), dtype="int32", name="at_evaluation")
        # Not an attribute of its own: Keras would track the variables in it as the optimizer's.
        self._left = SimpleNamespace(weights={})

    @property
    def trains_elsewhere(self) -> bool:
        """Whether evaluation belongs to other weights than those that are trained."""
        return hasattr(self, "_at_evaluation")

    @property
    def at_evaluation(self) -> bool:
        """Whether the model holds its evaluation weights now."""
        return self.trains_elsewhere and bool(ops.convert_to_numpy(self._at_evaluation))

    def evaluation_weights(self, trained: Any, *slots: Any) -> Any:
        """Returns the weights to evaluate at, given those that are trained and their slots."""
        raise NotImplementedError

    def training_weights(self, evaluated: Any, *slots: Any) -> Any:
        """Returns the weights to train at, given those to evaluate at and their slots."""
        raise NotImplementedError

    def to_evaluation(self) -> bool:
        """Puts the evaluation weights into the model; returns whether they were not there."""
        if self.at_evaluation or not (self.built and self.trains_elsewhere):
            return False
        for variable, slots in self._variables_and_slots():
            trained = ops.copy(variable)
            self._left.weights[id(variable)] = (variable, trained)
            variable.assign(self.evaluation_weights(trained, *slots))
        self._at_evaluation.assign(1)
        return True

    def to_training(self) -> None:
        """Puts the training weights back into the model; bitwise, if nobody changed the model."""
        if not self.at_evaluation:
            return
        for variable, slots in self._variables_and_slots():
            _, left = self._left.weights.get(id(variable), (None, None))
            evaluated = ops.copy(variable)
            if left is None or not _equal(evaluated, self.evaluation_weights(left, *slots)):
                left = self.training_weights(evaluated, *slots)
            variable.assign(left)
        self._left.weights.clear()
        self._at_evaluation.assign(0)

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables; whoever trains stands at the training weights."""
        super().apply(grads, trainable_variables)
        if self.trains_elsewhere:
            self._at_evaluation.assign(0)

    def _variables_and_slots(self) -> Iterator[tuple[Any, list[Any]]]:
        for i, variable in enumerate(known_variables(self)):
            slots = self.slots_of(i)
            if slots[0] is not None:
                yield variable, [ops.cast(slot, variable.dtype) for slot in slots]


def _equal(a: Any, b: Any) -> bool:
    return bool(ops.convert_to_numpy(ops.all(ops.equal(a, b))))
