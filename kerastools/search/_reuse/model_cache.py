"""Cache of compiled models, reused by trials that differ only in mutable hyperparameters."""

from typing import Any

from kerastools.search._reuse.description import Description, describe, difference
from kerastools.search._reuse.penalties import MutablePenalties

_SIZE = 4


class ModelCache:
    """Cache of the compiled models of the last few structures.

    A trial's model is built as always, but only to see what it computes, and with which
    hyperparameters and weights. If a cached model computes the same, these are copied to it and it
    is trained instead: its step is already compiled.
    """

    def __init__(self) -> None:
        self._cached: list[tuple[Description, Any, MutablePenalties]] = []
        self._last_missed: Description | None = None

    def compiled(self, fresh: Any) -> tuple[Any, str]:
        """Returns the model to train instead of `fresh`, in the same state, and how it was got."""
        if not fresh.built:
            return fresh, "newly compiled: the model has no weights before fit; give it an Input"
        wanted = describe(fresh)
        for i, (description, model, penalties) in enumerate(self._cached):
            if description == wanted:
                self._cached.append(self._cached.pop(i))
                copy_state(fresh, model)
                penalties.copy_from(fresh)
                return model, "reused: a model compiled before, with this trial's hyperparameters"
        how = "newly compiled: the first of its kind"
        if self._last_missed is not None:
            change = difference(self._last_missed, wanted) or "training changed the cached model"
            how = f"newly compiled: {change}"
        self._last_missed = wanted
        self._cached = [*self._cached[1 - _SIZE :], (wanted, fresh, MutablePenalties(fresh))]
        return fresh, how

    def check(self, model: Any) -> None:
        """Drops `model` if training changed what it computes: a callback froze a layer, say."""
        self._cached = [
            entry for entry in self._cached if entry[1] is not model or entry[0] == describe(model)
        ]

    def drop(self, model: Any) -> None:
        """Drops `model`, whose training failed."""
        self._cached = [entry for entry in self._cached if entry[1] is not model]


def state_of(model: Any) -> list[Any]:
    """Returns the variables of `model` and of its optimizer, which is built if needed."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return list(model.variables)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return [*model.variables, *optimizer.variables]


def copy_state(source: Any, target: Any) -> None:
    """Copies the variables of `source` and its optimizer to `target`."""
    for old, new in zip(state_of(target), state_of(source), strict=True):
        if old is not new:
            old.assign(new)
    target.stop_training = False
