"""Variables that an optimizer treats apart from the rest."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras

from kerastools._core.registration import register
from kerastools._core.table import Printed

_ROLES = {
    "bias": ("bias",),
    "norm": ("gamma", "beta", "scale"),
    "embedding": ("embeddings", "position_embeddings"),
}
_ROLE_NAMES = ("kernel", *_ROLES)


@register
@dataclasses.dataclass(frozen=True, init=False, repr=False)
class ParamGroup(Printed):
    """Some of a model's variables, with numbers of their own in the optimizer.

    Give any optimizer of this package `param_groups=[ParamGroup(...), ...]`. A pretrained trunk
    learns with a tenth of the head's rate, biases and normalisations do not decay, an embedding has
    another β₂. What a group does not set is the optimizer's own and follows it; the norm that
    `global_clipnorm` bounds is one over all groups.

    Groups may overlap: what each sets of a variable comes together, and their multipliers are
    multiplied, so that `no_decay_groups`, `layer_decay_groups` and a group for the head can go into
    one list.

    Which groups a variable is in belongs to the optimizer's saved state, so that it is the same
    after loading. `optimizer.set_group(0, lr_multiplier=0.5)` sets a number of the first group
    while `fit` runs.

    Args:
        match: Which variables: a layer or a list of layers (with all that is inside); a glob that a
            layer's name matches at any depth, such as `"block_*"`; `"role:"` and one or more of
            `kernel`, `bias`, `norm` and `embedding`, such as `"role:bias|norm"`; or a function of
            the variable that returns whether it belongs. A function that is not registered with
            Keras is saved as what it found.
        lr_multiplier: What the learning rate is multiplied by, at least 0.
        weight_decay: λ of these variables; `None` for the optimizer's own.
        **overrides: Any other number of the optimizer, such as `beta_2=0.99`.

    Raises:
        TypeError: If `match` is none of these.
        ValueError: If a role is unknown; when the optimizer is built, if a group matches no
            variable, two set the same number of one, or the optimizer has no number of that name.

    Example:

    >>> from kerastools.optimizers import Adam
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="trunk"),
    ...     keras.layers.Dense(2, name="head"),
    ... ])
    >>> groups = [ParamGroup("trunk", lr_multiplier=0.1), ParamGroup("head", beta_2=0.99)]
    >>> model.compile(Adam(1e-3, weight_decay=0.01, param_groups=groups), "mse")
    """

    match: Any
    numbers: Mapping[str, float]

    def __init__(
        self,
        match: Any,
        lr_multiplier: float = 1.0,
        weight_decay: float | None = None,
        **overrides: float,
    ) -> None:
        if isinstance(match, str) and match.startswith("role:"):
            unknown = set(_roles(match)) - set(_ROLE_NAMES)
            if unknown:
                raise ValueError(
                    f"ParamGroup knows the roles {', '.join(_ROLE_NAMES)}. Received {match!r}."
                )
        elif not (match is None or isinstance(match, str) or callable(match) or _layers(match)):
            raise TypeError(
                'ParamGroup needs a layer, a list of layers, a glob of layer names, "role:..." or '
                f"a function of a variable. Received {match!r} of type {type(match).__name__}."
            )
        numbers = {"lr_multiplier": lr_multiplier, "weight_decay": weight_decay, **overrides}
        given = {name: number for name, number in numbers.items() if number is not None}
        object.__setattr__(self, "match", match)
        object.__setattr__(self, "numbers", MappingProxyType(given))

    def matches(self, variable: Any) -> bool:
        """Returns whether `variable`, a `keras.Variable` of a model, is in this group."""
        if self.match is None:
            return False
        variable = getattr(variable, "original", variable)  # Of a copy to try steps on.
        layers = _layers(self.match)
        if layers:
            return any(v is variable for layer in layers for v in layer.weights)
        if isinstance(self.match, str) and self.match.startswith("role:"):
            return _role(variable) in _roles(self.match)
        if isinstance(self.match, str):
            names = variable.path.split("/")[:-1]
            return any(fnmatch.fnmatchcase(name, self.match) for name in names)
        return bool(self.match(variable))

    def may_be_empty(self) -> bool:
        """Returns whether it is no mistake that the group matches nothing.

        Layers may all be frozen now; what was saved as found is in the optimizer's state.
        """
        return self.match is None or bool(_layers(self.match))

    def with_number(self, name: str, number: float) -> "ParamGroup":
        """Returns the same group with one number changed."""
        return ParamGroup(self.match, **{**self.numbers, name: float(number)})

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        match: Any = self.match
        if _layers(match):
            names = [layer.name for layer in _layers(match)]
            match = names[0] if len(names) == 1 else None
        elif callable(match):
            known = keras.saving.get_registered_name(match) != getattr(match, "__name__", None)
            match = keras.saving.serialize_keras_object(match) if known else None
        return {"match": match, **self.numbers}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ParamGroup":
        """Returns the group that `get_config` described."""
        match = keras.saving.deserialize_keras_object(config["match"])
        return cls(**{**config, "match": match})

    def __str__(self) -> str:
        layers = ", ".join(f'"{layer.name}"' for layer in _layers(self.match))
        numbers = {k: v for k, v in self.numbers.items() if (k, v) != ("lr_multiplier", 1.0)}
        changed = "".join(f", {name}={number:g}" for name, number in numbers.items())
        match = getattr(self.match, "__name__", repr(self.match))
        return f"ParamGroup({f'layers {layers}' if layers else match}{changed})"


def _layers(match: Any) -> list[Any]:
    """Returns the layers that `match` is, or an empty list if it is something else."""
    several = list(match) if isinstance(match, list | tuple) else [match]
    return several if several and all(isinstance(m, keras.Layer) for m in several) else []


def _roles(match: str) -> list[str]:
    return match.removeprefix("role:").split("|")


def _role(variable: Any) -> str:
    name = variable.path.split("/")[-1]
    for role, names in _ROLES.items():
        if name in names:
            return role
    return "kernel" if name.endswith("kernel") else ""
