"""Compiled models that are kept, to be given the numbers of one trial after the other."""

from typing import Any

from kerastools.search._reuse.description import Description, describe, difference
from kerastools.search._reuse.penalties import LivePenalties

_KEPT = 4


class LiveModels:
    """The compiled models of the last few structures.

    A new trial's model is built as always, but only to see what it computes and with which numbers.
    Where a kept model computes the same, its variables are given the new one's values and it is
    trained in its place: its step is traced and compiled already.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Description, Any, LivePenalties]] = []
        self._unlike: Description | None = None

    def model_like(self, fresh: Any) -> tuple[Any, str]:
        """Returns the model to train in place of `fresh`, in the same state, and why it is that."""
        if not fresh.built:
            return fresh, "newly compiled: the model has no weights before fit; give it an Input"
        wanted = describe(fresh)
        for i, (description, model, live) in enumerate(self._kept):
            if description == wanted:
                self._kept.append(self._kept.pop(i))
                copy_state(fresh, model)
                live.take(fresh)
                return model, "live: compiled before, given this trial's numbers"
        reason = "newly compiled: the first of its kind"
        if self._unlike is not None:
            change = difference(self._unlike, wanted) or "training changed the one that was kept"
            reason = f"newly compiled: {change}"
        self._unlike = wanted
        self._kept = [*self._kept[1 - _KEPT :], (wanted, fresh, LivePenalties(fresh))]
        return fresh, reason

    def check(self, model: Any) -> None:
        """Forgets `model` if training changed what it computes (a callback froze a layer, say)."""
        self._kept = [
            entry for entry in self._kept if entry[1] is not model or entry[0] == describe(model)
        ]

    def forget(self, model: Any) -> None:
        """Forgets `model`, whose training failed in the middle."""
        self._kept = [entry for entry in self._kept if entry[1] is not model]


def state_of(model: Any) -> list[Any]:
    """Returns the variables of `model` and its optimizer, which is built if it was not."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return list(model.variables)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return [*model.variables, *optimizer.variables]


def copy_state(source: Any, target: Any) -> None:
    """Gives the variables of `target` and its optimizer the values of `source`'s."""
    for old, new in zip(state_of(target), state_of(source), strict=True):
        if old is not new:
            old.assign(new)
    target.stop_training = False
