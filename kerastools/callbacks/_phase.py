"""One phase of a `FreezeSchedule`."""

from dataclasses import dataclass
from typing import Any

import keras

from kerastools._core._registration import register


@register
@dataclass(frozen=True)
class Phase:
    """Says which layers train, for how long and how fast; a part of a `FreezeSchedule`.

    A phase names all that trains in it: phases do not add up, so any subset can follow any other.

    Args:
        layers: What trains: a `keras.Layer` of the model; a string, read in this order until one
            reading finds something: `"all"`; the path of a layer (`"trunk/conv1"` lies in the
            nested model "trunk"); its name at any depth; a glob (`"block_1*"`); a regular
            expression for a whole name or path (`"b|head"`, `r"block_1[4-6]_.*"`); `"head"`, the
            last layer that has weights. A list joins several. A layer that contains others, a
            nested model for one, stands for all of them.
        epochs: How many epochs the phase lasts, at least 1; None, allowed in the last phase only,
            to the end of training. The last phase goes on to the end in any case.
        lr_multiplier: What the optimizer's learning rate is multiplied by during the phase; it is
            relative to the rate of the optimizer, not to the previous phase's. Works with a
            `LearningRateSchedule` too, which goes on undisturbed. Default 1.
        learning_rate: The learning rate of the phase, instead of a multiplier. Not possible where
            the optimizer follows a `LearningRateSchedule`.

    Raises:
        ValueError: If a number is out of range, `layers` is empty, or both rates are given.

    Example:

    >>> Phase("head", epochs=3)
    Phase(layers='head', epochs=3, lr_multiplier=1.0, learning_rate=None)
    >>> Phase("block_5_*|head", lr_multiplier=0.1).epochs is None
    True
    """

    layers: Any
    epochs: int | None = None
    lr_multiplier: float = 1.0
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.layers, str | list | tuple) and not self.layers:
            raise ValueError(
                f"Phase needs at least one layer that trains. Received layers={self.layers!r}. "
                'Pass a name, a pattern such as "block_5_*", or "all".'
            )
        if self.epochs is not None and (int(self.epochs) != self.epochs or self.epochs < 1):
            raise ValueError(
                f"Phase needs epochs to be an integer of at least 1, or None for the rest of "
                f"training. Received epochs={self.epochs!r}."
            )
        for name in ("lr_multiplier", "learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= float(rate) < float("inf"):
                raise ValueError(f"Phase needs {name} to be a number >= 0. Received {rate!r}.")
        if self.learning_rate is not None and self.lr_multiplier != 1.0:
            raise ValueError(
                "Phase takes a learning_rate or an lr_multiplier, not both. Received "
                f"learning_rate={self.learning_rate} and lr_multiplier={self.lr_multiplier}."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data; a layer as its name."""
        return {
            "layers": _as_names(self.layers),
            "epochs": self.epochs,
            "lr_multiplier": self.lr_multiplier,
            "learning_rate": self.learning_rate,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Phase":
        """Returns the phase that `get_config` described."""
        return cls(**config)


def _as_names(layers: Any) -> Any:
    if isinstance(layers, list | tuple):
        return [_as_names(one) for one in layers]
    return layers.name if isinstance(layers, keras.Layer) else layers
