"""Optimizers that evaluate at other weights than those they train."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
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
        if not pairs:
            moving = self._moving()
            trained = {i: ops.copy(v) for i, v in moving.items()}
            evaluated = self._points(self.evaluation_weights, trained)
            for i, v in moving.items():
                # Copied, because a step on JAX deletes what the model held.
                self._left.weights[id(v)] = (v, trained[i], ops.copy(evaluated[i]))
            self._put(evaluated)
        self._at_evaluation.assign(1)
        return True

    def to_training(self: Any) -> None:
        """Puts the training weights back into the model; bitwise, if nobody changed the model."""
        if not self.at_evaluation:
            return
        pairs = self.evaluation_pairs()
        _swap(pairs)
        if not pairs:
            moving, left = self._moving(), self._unchanged()
            complete = left.keys() == moving.keys()
            self._put(left if complete else self._points(self.training_weights, moving) | left)
        self._left.weights = {}
        self._at_evaluation.assign(0)

    def apply(self: Any, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables; whoever trains stands at the training weights."""
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        if self.trains_elsewhere:
            self._at_evaluation.assign(0)

    def _moving(self: Any) -> dict[int, Any]:
        """Returns, by place, every variable that has slots."""
        known = enumerate(known_variables(self))
        return {i: v for i, v in known if self.slots_of(i)[0] is not None}

    def _unchanged(self: Any) -> dict[int, Any]:
        """Returns, by place, the weights that were left where the model is as it was put."""
        unchanged = {}
        for i, variable in enumerate(known_variables(self)):
            _, trained, evaluated = self._left.weights.get(id(variable), (None, None, None))
            if trained is not None and np.array_equal(
                *map(ops.convert_to_numpy, (variable, evaluated))
            ):
                unchanged[i] = trained
        return unchanged

    def _points(self: Any, point: Callable[..., Any], weights: dict[int, Any]) -> dict[int, Any]:
        """Returns `point` of the weights and their slots; for those of a stack in one go."""
        found: dict[int, Any] = {}
        for stack in self.stacks:
            rows = ops.stack([weights[i] for i in stack.indices])
            moved = point(rows, *(_alike(slot, rows) for slot in stack.slots))
            found |= zip(stack.indices, ops.unstack(moved), strict=True)
        for i in weights.keys() - found.keys():
            found[i] = point(weights[i], *(_alike(s, weights[i]) for s in self.slots_of(i)))
        return found

    def _put(self: Any, weights: dict[int, Any]) -> None:
        variables = known_variables(self)
        for i, value in weights.items():
            variables[i].assign(value)


def _alike(slot: Any, weights: Any) -> Any:
    """Returns the slot in the type of the weights."""
    wanted = keras.backend.standardize_dtype(weights.dtype)
    return slot if slot.dtype == wanted else ops.cast(slot, wanted)


def _swap(pairs: Sequence[tuple[Any, Any]]) -> None:
    for variable, other in pairs:
        held = ops.copy(variable)  # JAX may not be given one buffer under two names.
        variable.assign(ops.copy(other))
        other.assign(held)
