"""Registry of stacking rules, and the rule that works for every layer."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from kerastools.search._stacked.stacked_tensor import StackedTensor, stack

# rule(layer, values of its variables, training, *arguments of the layer) -> output
Rule = Callable[..., Any]
Check = Callable[[Any], bool]

_RULES: dict[type, tuple[Rule, Check]] = {}


def stacks(*classes: type, where: Check = lambda layer: True) -> Callable[[Rule], Rule]:
    """Registers the decorated function as stacking rule of the layers of `classes`.

    Args:
        *classes: Classes of layers; subclasses do not count.
        where: Tells the layers that the rule can compute.
    """

    def register(function: Rule) -> Rule:
        for cls in classes:
            _RULES[cls] = (function, where)
        return function

    return register


def find_rule(layer: Any) -> Rule | None:
    """Returns the stacking rule of `layer`, or `None`."""
    function, where = _RULES.get(type(layer), (None, None))
    return function if where is not None and where(layer) else None


def one_by_one(layer: Any, values: Any, training: bool, /, *args: Any, **kwargs: Any) -> Any:
    """Calls `layer` K times, with the tensors and the weights of one model each."""
    outputs, after = [], []
    is_layer = isinstance(layer, keras.Layer)
    # Unstacked once: the gradients of K slices would be K whole arrays of zeros.
    leaves = [_each(leaf, values.size) for leaf in tree.flatten((args, kwargs))]
    trained, others = (
        [ops.unstack(values.get(v), values.size) for v in variables]
        for variables in (
            (layer.trainable_variables, layer.non_trainable_variables) if is_layer else ((), ())
        )
    )
    for k in range(values.size):
        inputs = tree.pack_sequence_as((args, kwargs), [each[k] for each in leaves])
        if is_layer:
            if "training" in inspect.signature(layer.call).parameters:
                inputs[1]["training"] = training
            mapping = [
                *zip(layer.trainable_variables, (each[k] for each in trained), strict=True),
                *zip(layer.non_trainable_variables, (each[k] for each in others), strict=True),
            ]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                before = [scope.get_current_value(v) for v in layer.trainable_variables]
                y = layer.call(*inputs[0], **inputs[1])
                moved = [scope.get_current_value(v) for v in layer.trainable_variables]
                after.append([scope.get_current_value(v) for v in layer.non_trainable_variables])
            if any(a is not b for a, b in zip(before, moved, strict=True)):
                raise ValueError(f"layer {layer.name!r} assigns trainable variables in call")
        else:
            y = layer(*inputs[0], **inputs[1])
        outputs.append(y)
    if after:
        pairs = zip(layer.non_trainable_variables, zip(*after, strict=True), strict=True)
        for variable, new in pairs:
            values.set(variable, ops.stack(new))
    return tree.map_structure(lambda *each: stack(each), *outputs)


def _each(leaf: Any, size: int) -> list[Any]:
    return leaf.unstack() if isinstance(leaf, StackedTensor) else [leaf] * size
