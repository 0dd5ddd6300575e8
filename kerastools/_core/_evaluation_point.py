"""Optimizers that evaluate at other weights than those they train."""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from keras import ops

from kerastools._core._compiled import compiled_beside
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
        self._left = SimpleNamespace(weights=(), read=[], ways=())

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
            variables, there, *_ = self._ways()
            trained = [ops.copy(v) for v in variables]
            evaluated = there(trained)
            self._left.weights = (trained, evaluated)
            _assign(variables, evaluated)
        self._at_evaluation.assign(1)
        return True

    def to_training(self: Any) -> None:
        """Puts the training weights back into the model; bitwise, if nobody changed the model."""
        if not self.at_evaluation:
            return
        pairs = self.evaluation_pairs()
        _swap(pairs)
        if not pairs:
            variables, _, back, computed = self._ways()
            held = [ops.copy(v) for v in variables]
            left = self._left.weights
            _assign(variables, back(held, *left) if left else computed(held))
        self._left.weights = ()
        self._at_evaluation.assign(0)

    def apply(self: Any, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables; whoever trains stands at the training weights."""
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        if self.trains_elsewhere:
            self._at_evaluation.assign(0)

    def _ways(self: Any) -> tuple[Any, ...]:
        """Returns the variables, the way there, the way back, and the way that is computed."""
        read = list(self.variables)
        if not _same(read, self._left.read):
            known = enumerate(known_variables(self))
            moving = [(v, self.slots_of(i)) for i, v in known]
            moving = [(v, slots) for v, slots in moving if slots[0] is not None]
            there, computed = (
                partial(_each, point, [slots for _, slots in moving])
                for point in (self.evaluation_weights, self.training_weights)
            )
            back = partial(_back, computed)
            ways = (compiled_beside(way, read) for way in (there, back, computed))
            self._left.read, self._left.weights = read, ()
            self._left.ways = ([v for v, _ in moving], *ways)
        return self._left.ways


def _each(point: Callable[..., Any], slots: list[list[Any]], weights: list[Any]) -> list[Any]:
    return [
        point(w, *(ops.cast(slot, w.dtype) for slot in own))
        for w, own in zip(weights, slots, strict=True)
    ]


def _back(
    computed: Callable[..., Any], held: list[Any], trained: list[Any], evaluated: list[Any]
) -> list[Any]:
    """Returns the weights that were trained, or works them out where the model was changed."""
    return [
        ops.where(ops.all(ops.equal(now, put)), left, else_)
        for now, put, left, else_ in zip(held, evaluated, trained, computed(held), strict=True)
    ]


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _assign(variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _swap(pairs: Sequence[tuple[Any, Any]]) -> None:
    for variable, other in pairs:
        held = ops.copy(variable)  # JAX may not be given one buffer under two names.
        variable.assign(ops.copy(other))
        other.assign(held)
