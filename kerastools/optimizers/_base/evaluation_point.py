"""Optimizers that evaluate at other weights than those they train."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

# Called with each optimizer that evaluates at other weights, when it is built; the room of the
# callbacks has the one that reminds of `EvaluationWeights`.
WHEN_BUILT: list[Callable[[Any], None]] = []


class EvaluationPoint(keras.optimizers.Optimizer):
    """Base of optimizers that may train other weights than those to evaluate.

    An optimizer that does so calls `_add_evaluation_point()` in its constructor. Either it keeps
    the evaluation weights next to those that are trained, and `_evaluation_pairs` returns both;
    then they change places. Or `_evaluation_weights` and `_training_weights` compute one from the
    other. Which of them the model holds is part of the optimizer's state, so that a model saved at
    its evaluation weights is trained on from the right ones.
    """

    def _add_evaluation_point(self) -> None:
        """Creates the state that says which weights the model holds."""
        if self._trains_elsewhere:
            raise ValueError(
                f"This {type(self).__name__} already evaluates other weights than it trains; a "
                "moving average of those (use_ema) would be of the wrong ones. Leave use_ema out."
            )
        self._at_evaluation = self.add_variable(shape=(), dtype="int32", name="at_evaluation")
        # Not an attribute of its own: Keras would track the variables in it as the optimizer's.
        self._left = SimpleNamespace(groups=[])
        # Whether the user has asked for the evaluation weights, and need not be reminded of them.
        self.uses_evaluation_weights = False

    @property
    def _trains_elsewhere(self) -> bool:
        """Whether evaluation belongs to other weights than those that are trained."""
        return hasattr(self, "_at_evaluation")

    @property
    def at_evaluation(self) -> bool:
        """Whether the model holds its evaluation weights now."""
        return self._trains_elsewhere and bool(ops.convert_to_numpy(self._at_evaluation))

    def build(self, variables: list[Any]) -> None:
        """Builds the optimizer."""
        super().build(variables)
        if self._trains_elsewhere:
            for call in WHEN_BUILT:
                call(self)

    def _evaluation_pairs(self) -> Sequence[tuple[Any, Any]]:
        """Returns each variable with the one that holds its other weights; none if computed."""
        return ()

    def _evaluation_weights(self, trained: Any, *slots: Any) -> Any:
        """Returns the weights to evaluate at, given those that are trained and their slots."""
        raise NotImplementedError

    def _training_weights(self, evaluated: Any, *slots: Any) -> Any:
        """Returns the weights to train at, given those to evaluate at and their slots."""
        raise NotImplementedError

    def to_evaluation(self) -> bool:
        """Puts the evaluation weights into the model; returns whether they were not there."""
        if self.at_evaluation or not (self.built and self._trains_elsewhere):
            return False
        self.uses_evaluation_weights = True
        pairs = self._evaluation_pairs()
        _swap(pairs)
        if not pairs:
            for variables, slots in self._moving():
                trained = _joined(variables)
                evaluated = self._evaluation_weights(trained, *_alike(slots, trained))
                _put(variables, _parts(evaluated, len(variables)))
                # Copied, because a step on JAX deletes what the model held.
                self._left.groups.append((variables, trained, ops.copy(evaluated)))
        self._at_evaluation.assign(1)
        return True

    def to_training(self) -> None:
        """Puts the training weights back into the model; bitwise, if nobody changed the model."""
        if not self.at_evaluation:
            return
        pairs = self._evaluation_pairs()
        _swap(pairs)
        if not pairs:
            left = self._unchanged()
            for variables, slots in self._moving():
                weights = [left.get(id(v)) for v in variables]
                if any(w is None for w in weights):
                    now = _joined(variables)
                    point = self._training_weights(now, *_alike(slots, now))
                    parts = _parts(point, len(variables))
                    weights = [p if w is None else w for p, w in zip(parts, weights, strict=True)]
                _put(variables, weights)
        self._left.groups = []
        self._at_evaluation.assign(0)

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables; training holds the training weights."""
        super().apply(grads, trainable_variables)
        if self._trains_elsewhere:
            self._at_evaluation.assign(0)

    def _moving(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """Yields the variables that have slots, with these: those of a stack at once."""
        raise NotImplementedError

    def _unchanged(self) -> dict[int, Any]:
        """Returns, by id, the weights that were left where the model is as it was put."""
        unchanged: dict[int, Any] = {}
        for variables, trained, evaluated in self._left.groups:
            same = ops.convert_to_numpy(ops.equal(_joined(variables), evaluated))
            rows = same.reshape(len(variables), -1).all(axis=1)
            pairs = zip(variables, _parts(trained, len(variables)), rows, strict=True)
            unchanged |= {id(v): weights for v, weights, row in pairs if row}
        return unchanged


def _joined(variables: list[Any]) -> Any:
    """Returns a copy of the variables; of several, stacked on a first axis."""
    if len(variables) == 1:
        return ops.copy(variables[0])
    return ops.stack([v.value for v in variables])


def _parts(joined: Any, count: int) -> list[Any]:
    """Returns one by one what `_joined` joined."""
    return [joined] if count == 1 else ops.unstack(joined)


def _alike(slots: list[Any], rows: Any) -> list[Any]:
    """Returns the slots in the type of the weights."""
    wanted = keras.backend.standardize_dtype(rows.dtype)
    return [slot if slot.dtype == wanted else ops.cast(slot, wanted) for slot in slots]


def _put(variables: list[Any], weights: list[Any]) -> None:
    for variable, value in zip(variables, weights, strict=True):
        variable.assign(value)


def _swap(pairs: Sequence[tuple[Any, Any]]) -> None:
    for variable, other in pairs:
        held = ops.copy(variable)  # JAX may not be given one buffer under two names.
        variable.assign(ops.copy(other))
        other.assign(held)
