"""Dropout whose rate follows the gap between training and validation."""

from typing import Any

import keras

from kerastools._core.registration import Configured
from kerastools.regularization._mutable_dropout import (
    borrowed_dropout,
    names_of_rates,
    set_rate,
    usual_range,
)


class AdaptiveDropout(Configured, keras.callbacks.Callback):
    """Raises the rate of dropout layers when the model overfits, lowers it when it underfits.

    After each epoch, with the gap g between validation and training:

        g = (val_loss − loss) / |loss|
        rate ← min(rate + step, high)   if g > overfitting
        rate ← max(rate − step, low)    if g < underfitting

    Use it where the right rate is unknown and there is no time to search for it. The rate acts at
    once, without compiling again, and is in the epoch's logs as `dropout`. Keras measures
    `loss` with dropout on and averages it over the epoch, so that it stands above the loss of the
    same rows in validation, and the gap is below 0 without overfitting. When `fit` ends, the layers
    have the rates from before; the next `fit` with this object goes on at its own.

    Args:
        bounds: (low, high), between which the rate moves, in [0, 1]. By default what is usual:
            0.2 to 0.3 in recurrent nets, 0.4 to 0.5 in convolutional nets, 0.1 to 0.5 in others.
            The rates that the layers have when training begins are brought within.
        step: By how much the rate changes at most once per epoch.
        overfitting: Above this gap the rate rises.
        underfitting: Below this gap the rate falls.
        layers: Which layers, as in `DropoutSchedule`. They get the same rate, at first the mean of
            theirs.

    Raises:
        ValueError: If a number is out of range; at the start of training if no rate is mutable or
            another callback sets it too, and after the first epoch if there is no validation loss.

    Example:

    >>> import numpy as np
    >>> from kerastools.layers import Dropout
    >>> rng = np.random.default_rng(1)
    >>> x, y = rng.normal(size=(40, 30)), rng.normal(size=(40, 1))  # only noise to learn
    >>> model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(50, "relu"),
    ...                           Dropout(0.1), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> history = model.fit(x, y, validation_split=0.5, epochs=20, verbose=0,
    ...                     callbacks=[AdaptiveDropout()])
    >>> history.history["dropout"][-1]
    0.5

    Reference: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way
    to prevent neural networks from overfitting", JMLR 2014, on the rates.
    """

    def __init__(
        self,
        bounds: tuple[float, float] | None = None,
        step: float = 0.05,
        overfitting: float = 0.1,
        underfitting: float = 0.0,
        layers: Any = "all",
    ) -> None:
        super().__init__()
        if bounds is not None and not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ValueError(
                "AdaptiveDropout needs bounds (low, high) with 0 ≤ low ≤ high ≤ 1. Received "
                f"bounds={bounds!r}."
            )
        if not (0 < step <= 1 and underfitting <= overfitting):
            raise ValueError(
                "AdaptiveDropout needs a step in (0, 1] and underfitting ≤ overfitting. Received "
                f"step={step}, underfitting={underfitting}, overfitting={overfitting}."
            )
        self.bounds = None if bounds is None else tuple(bounds)
        self.step = step
        self.overfitting = overfitting
        self.underfitting = underfitting
        self.layers = layers

    @property
    def sets(self) -> set[str]:
        """The rates that it sets."""
        return names_of_rates(self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the layers, and brings their rate within the bounds."""
        before = getattr(self, "_found", None)
        self._found, self._give_back = borrowed_dropout(self)
        self._low, self._high = self.bounds or usual_range(self.model)
        rates = [layer.rate for layer in self._found]
        self._set(self._rate if self._found == before else sum(rates) / len(rates))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Changes the rate, and logs what it was in this epoch."""
        if logs is None or "val_loss" not in logs:
            raise ValueError(
                "AdaptiveDropout needs a validation loss to compare with. Pass "
                f"validation_data=... to fit. Received the logs {sorted(logs or {})}."
            )
        logs["dropout"] = self._rate
        gap = (logs["val_loss"] - logs["loss"]) / max(abs(logs["loss"]), 1e-12)
        if gap > self.overfitting:
            self._set(self._rate + self.step)
        elif gap < self.underfitting:
            self._set(self._rate - self.step)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the layers their rates back."""
        self._give_back()

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain data."""
        bounds = None if self.bounds is None else list(self.bounds)
        return super().get_config() | {"bounds": bounds}

    def _set(self, rate: float) -> None:
        self._rate = round(min(max(rate, self._low), self._high), 7)
        set_rate(self._found, self._rate)
