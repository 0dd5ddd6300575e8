"""Making the folded model."""

from typing import Any

import keras

from kerastools._core.graph.calls import Call
from kerastools._core.graph.rebuild import layer_from_config, rebuild
from kerastools.folding._plan import Plan


def build(plan: Plan, caller: str) -> Any:
    """Returns the new model that `plan` describes; nothing of the old one is changed."""
    twins: dict[int, Any] = {}
    stand_ins: dict[int, Any] = {}

    def change(path: str, layer: Any) -> tuple[Any, bool] | None:
        weights = plan.weights.get(id(layer))
        if weights is None:
            return None
        twins[id(layer)] = layer_from_config(layer, weights.config_changes(), caller)
        return twins[id(layer)], False

    def connect(call: Call, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        old = call.operation
        if call in plan.shifts:
            common = {"name": old.name, "dtype": old.dtype_policy.name}
            return keras.layers.Rescaling(1.0, plan.shifts[call], **common)(args[0])
        if call not in plan.removed:
            return layer(*args, **kwargs)
        if call not in plan.returned:
            return args[0]
        if id(old) not in stand_ins:
            # The name of an output stays, unless the layer stays too, for another call.
            name = f"{old.name}_folded" if plan.stays(old) else old.name
            stand_ins[id(old)] = keras.layers.Identity(name=name, dtype=old.dtype_policy.name)
        return stand_ins[id(old)](args[0])

    folded = rebuild(plan.model, caller, change, connect)
    for key, layer in twins.items():
        plan.weights[key].assign_to(layer)
    return folded
