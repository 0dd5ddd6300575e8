"""Optimizers that evaluate at other weights than those they train."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from kerastools.optimizers._base.slots import known_variables


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
        self._left = SimpleNamespace(groups=[])

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
            for variables, slots in self._moving():
                trained = _joined(variables)
                evaluated = self.evaluation_weights(trained, *_alike(slots, trained))
                _put(variables, _parts(evaluated, len(variables)))
                # Copied, because a step on JAX deletes what the model held.
                self._left.groups.append((variables, trained, ops.copy(evaluated)))
        self._at_evaluation.assign(1)
        return True

    def to_training(self: Any) -> None:
        """Puts the training weights back into the model; bitwise, if nobody changed the model."""
        if not self.at_evaluation:
            return
        pairs = self.evaluation_pairs()
        _swap(pairs)
        if not pairs:
            left = self._unchanged()
            for variables, slots in self._moving():
                weights = [left.get(id(v)) for v in variables]
                if any(w is None for w in weights):
                    now = _joined(variables)
                    point = self.training_weights(now, *_alike(slots, now))
                    parts = _parts(point, len(variables))
                    weights = [p if w is None else w for p, w in zip(parts, weights, strict=True)]
                _put(variables, weights)
        self._left.groups = []
        self._at_evaluation.assign(0)

    def apply(self: Any, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables; whoever trains stands at the training weights."""
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        if self.trains_elsewhere:
            self._at_evaluation.assign(0)

    def _moving(self: Any) -> Iterator[tuple[list[Any], list[Any]]]:
        """Yields the variables that have slots, with these: those of a stack at once."""
        known, stacked = known_variables(self), set()
        for stack in self.stacks:
            stacked |= set(stack.indices)
            yield [known[i] for i in stack.indices], stack.slots
        for i in set(range(len(known))) - stacked:
            if self.slots_of(i)[0] is not None:
                yield [known[i]], self.slots_of(i)

    def _unchanged(self: Any) -> dict[int, Any]:
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
