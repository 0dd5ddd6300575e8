"""Which function computes a layer for many models."""

from collections.abc import Callable
from typing import Any

# Given the layer, the values of its variables, whether it is training and the layer's arguments.
Rule = Callable[..., Any]
Check = Callable[[Any], bool]

_RULES: dict[type, tuple[Rule, Check]] = {}


def stacks(*classes: type, where: Check = lambda layer: True) -> Callable[[Rule], Rule]:
    """Decorates the function that computes the layers of `classes`, those for which `where`."""

    def register(function: Rule) -> Rule:
        for cls in classes:
            _RULES[cls] = (function, where)
        return function

    return register


def find_rule(layer: Any) -> Rule | None:
    """Returns the function that computes `layer` for many models, or `None`."""
    function, where = _RULES.get(type(layer), (None, None))
    return function if where is not None and where(layer) else None
