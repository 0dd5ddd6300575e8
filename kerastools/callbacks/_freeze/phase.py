"""One phase of a `FreezeSchedule`, and the plateau that may end it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from kerastools._core.registration import Configured, register


@register
@dataclass(frozen=True)
class Plateau(Configured):
    """Ends a `Phase` when a metric has not improved for some epochs.

    The metric improves when it beats its best value in this phase by more than `min_delta`; NaN
    never does. In the last phase of a schedule the plateau ends training.

    Args:
        monitor: A key of the epoch's logs, such as `"val_loss"` or `"val_accuracy"`.
        patience: How many epochs without improvement end the phase, at least 1.
        min_delta: By how much a value must beat the best to count, in units of the metric, >= 0.
        mode: `"min"` or `"max"`, whether smaller or larger is better. None: smaller for names that
            contain "loss" or "error", larger for those that contain "acc" or "auc".
        restore_best: Whether the next phase begins with the weights and optimizer slots of the
            phase's best epoch; iterations and learning-rate schedule go on. In the last phase
            training ends with them.

    Raises:
        ValueError: If a number is out of range, or `mode` is neither given nor clear.

    Example:

    >>> plateau = Plateau("val_loss", patience=2)
    >>> [plateau.reached(values) for values in ([3.0, 2.0, 2.5], [3.0, 2.0, 2.5, 2.0])]
    [False, True]
    """

    monitor: str = "val_loss"
    patience: int = 2
    min_delta: float = 0.0
    mode: str | None = None
    restore_best: bool = False

    def __post_init__(self) -> None:
        if int(self.patience) != self.patience or self.patience < 1:
            raise ValueError(
                f"Plateau needs patience to be an integer >= 1. Received {self.patience!r}."
            )
        if not 0 <= float(self.min_delta) < float("inf"):
            raise ValueError(f"Plateau needs min_delta >= 0. Received {self.min_delta!r}.")
        if self._sign() is None:
            raise ValueError(
                f'Plateau needs mode="min" or mode="max" for {self.monitor!r}. Received '
                f"mode={self.mode!r}."
            )

    def best_epoch(self, values: Sequence[float]) -> int:
        """Returns the index of the last of `values` that was an improvement; 0 for the first."""
        best, at, sign = float("-inf"), 0, self._sign() or 1
        for i, value in enumerate(values):
            if sign * value > best + self.min_delta:
                best, at = sign * value, i
        return at

    def reached(self, values: Sequence[float]) -> bool:
        """Whether the phase ends, given the metric's value in each of its epochs."""
        return len(values) - 1 - self.best_epoch(values) >= self.patience

    def words(self) -> str:
        """Returns when it ends a phase, in words."""
        return f"{self.monitor} plateau of {self.patience}"

    def _sign(self) -> int | None:
        signs = {"min": -1, "max": 1}
        if self.mode is not None:
            return signs.get(self.mode)
        if any(part in self.monitor for part in ("acc", "auc")):
            return 1
        return -1 if any(part in self.monitor for part in ("loss", "error")) else None


@register
@dataclass(frozen=True)
class Phase(Configured):
    """Says which layers train, for how long and how fast; a part of a `FreezeSchedule`.

    A phase names all that trains in it: phases do not add up, so any subset can follow any other.

    Args:
        layers: What trains: a `keras.Layer` of the model; a string, read in this order until one
            reading finds something: `"all"`; the path of a layer (`"trunk/conv1"` lies in the
            nested model "trunk"); its name at any depth; a glob (`"block_1*"`); a regular
            expression for a whole name or path (`"b|head"`, `r"block_1[4-6]_.*"`); `"head"`, the
            last layer that has weights. A list joins several. A layer that contains others, a
            nested model for one, stands for all of them.
        epochs: After how many epochs the phase ends, at least 1; an epoch in whose middle it begins
            counts. Of `epochs`, `steps` and `until`, the first that comes ends the phase. Every
            phase but the last needs one; the last goes on to the end of training.
        lr_multiplier: What the optimizer's learning rate is multiplied by during the phase; it is
            relative to the rate of the optimizer, not to the previous phase's. Works with a
            `LearningRateSchedule` too, which goes on undisturbed. Default 1.
        learning_rate: The learning rate of the phase, instead of a multiplier: a number, which is
            not possible where the optimizer follows a `LearningRateSchedule`; or such a schedule,
            which counts the updates from the start of the phase. With several steps in one call
            (`steps_per_execution`) the rate of the first holds for the call.
        steps: After how many training steps the phase ends, in the middle of an epoch too.
        layer_decay: What the learning rate is multiplied by from each level to the one below it, in
            (0, 1]; lower layers, which are more general, then change less. The levels are the
            entries of the list `layers`, from the top down; or else the single layers with weights,
            each with the normalisation above it, the last layer of the model at the top. Usual: 0.4
            (1/2.6 in the paper below) to 0.75 per block. Keras's decoupled weight decay is not
            scaled. Like a multiplier, it ends with training and is not saved with the model.
        until: A `Plateau`, or a function of the number of epochs that the phase has lasted and the
            last epoch's logs, which returns True at the end of the phase. In the last phase it ends
            training. To save the schedule, decorate the function with
            `keras.saving.register_keras_serializable`.
        fresh_slots: Whether the optimizer's slots are reset when the phase begins, for layers that
            trained before too, as with a new optimizer; iterations and learning-rate schedule go
            on. Useful where the layers below begin to train: Adam's mean of squared gradients from
            a head's first steps would hold it back for hundreds of steps.

    Raises:
        ValueError: If a number is out of range, `layers` is empty, both rates are given, or `until`
            cannot be called.

    Example:

    >>> Phase("head", epochs=3).lasts()
    '3 epochs'
    >>> Phase("block_5_*", lr_multiplier=0.1, epochs=9, until=Plateau("val_loss")).lasts()
    '9 epochs or val_loss plateau of 2'

    Reference: Howard and Ruder, "Universal language model fine-tuning for text classification",
    ACL 2018 (discriminative fine-tuning).
    """

    layers: Any
    epochs: int | None = None
    lr_multiplier: float = 1.0
    learning_rate: float | LearningRateSchedule | None = None
    steps: int | None = field(default=None, kw_only=True)
    layer_decay: float | None = field(default=None, kw_only=True)
    until: Plateau | Callable[[int, dict[str, Any]], bool] | None = field(
        default=None, kw_only=True
    )
    fresh_slots: bool = field(default=False, kw_only=True)

    _objects = ("until", "learning_rate")

    def __post_init__(self) -> None:
        if isinstance(self.layers, str | list | tuple) and not self.layers:
            raise ValueError(
                f"Phase needs at least one layer that trains. Received layers={self.layers!r}. "
                'Pass a name, a pattern such as "block_5_*", or "all".'
            )
        for name in ("epochs", "steps"):
            number = getattr(self, name)
            if number is not None and (int(number) != number or number < 1):
                raise ValueError(
                    f"Phase needs {name} to be an integer of at least 1, or None. Received "
                    f"{name}={number!r}."
                )
        if self.layer_decay is not None and not 0 < float(self.layer_decay) <= 1:
            raise ValueError(
                f"Phase needs layer_decay in (0, 1], the factor from one level to the one below. "
                f"Received layer_decay={self.layer_decay!r}."
            )
        if not (self.until is None or isinstance(self.until, Plateau) or callable(self.until)):
            raise ValueError(
                "Phase needs until to be a Plateau or a function of epochs and logs. Received "
                f"{self.until!r} of type {type(self.until).__name__}."
            )
        for name in ("lr_multiplier", "learning_rate"):
            rate = getattr(self, name)
            if isinstance(rate, LearningRateSchedule) and name == "learning_rate":
                rate = rate(0)
            if rate is not None and not 0 <= float(rate) < float("inf"):
                raise ValueError(f"Phase needs {name} to be a number >= 0. Received {rate!r}.")
        if self.learning_rate is not None and self.lr_multiplier != 1.0:
            raise ValueError(
                "Phase takes a learning_rate or an lr_multiplier, not both. Received "
                f"learning_rate={self.learning_rate} and lr_multiplier={self.lr_multiplier}."
            )

    @property
    def ends(self) -> bool:
        """Whether anything ends this phase before training ends."""
        return any(end is not None for end in (self.epochs, self.steps, self.until))

    def lasts(self) -> str:
        """Returns how long the phase lasts, in words."""
        ends = [
            "" if self.epochs is None else f"{self.epochs} epoch{'s' * (self.epochs > 1)}",
            "" if self.steps is None else f"{self.steps} step{'s' * (self.steps > 1)}",
            "" if self.until is None else _words(self.until),
        ]
        return " or ".join(filter(None, ends)) or "to the end"

    def rate(self) -> str:
        """Returns the learning rate, in words."""
        rate = self.learning_rate
        base = f"× {self.lr_multiplier:g}" if rate is None else _rate_words(rate)
        if self.layer_decay is not None:
            base += f", × {self.layer_decay:g} per level"
        return base + ", fresh slots" * self.fresh_slots

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data; a layer as its name."""
        return super().get_config() | {"layers": _as_names(self.layers)}


def _words(until: Any) -> str:
    return until.words() if isinstance(until, Plateau) else getattr(until, "__name__", str(until))


def _rate_words(rate: Any) -> str:
    return type(rate).__name__ if isinstance(rate, LearningRateSchedule) else f"{rate:g}"


def _as_names(layers: Any) -> Any:
    if isinstance(layers, list | tuple):
        return [_as_names(one) for one in layers]
    return layers.name if isinstance(layers, keras.Layer) else layers
