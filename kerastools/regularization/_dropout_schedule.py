"""Dropout that comes early or late in training."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerastools._core.registration import Configured
from kerastools._core.table import Printed, format_table
from kerastools.regularization._mutable_dropout import borrowed_dropout, names_of_rates, set_rate


class DropoutSchedule(Printed, Configured, keras.callbacks.Callback):
    """Schedules the rate of dropout layers by the epoch: early dropout, late dropout, or any line.

    Dropout in the first epochs only helps a model that underfits; dropout in the last epochs only
    regularizes one that overfits. The rate acts at once, without compiling again, and is in the
    epoch's logs as `dropout`. When `fit` ends, the layers have the rates from before.

    Args:
        points: Pairs (epoch, rate), epochs counted from 0 and not falling; between two points the
            rate goes in a straight line, before the first and after the last it stays. Two points
            of one epoch make a step. `DropoutSchedule.early` and `.late` make the usual ones.
        layers: Which layers: `"all"`, a name, glob or regular expression, a layer, or a list. Of
            those found, the dropout layers of `kerastools.layers` are set, which
            `kerastools.regularization.regularize` inserts.

    Raises:
        ValueError: If `points` are not such pairs; at the start of training if no rate
            is mutable or another callback sets it too.

    Example:

    >>> import numpy as np
    >>> from kerastools.layers import Dropout
    >>> model = keras.Sequential([keras.Input((4,)), Dropout(0.5), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> schedule = DropoutSchedule.early(0.2, epochs=2)
    >>> schedule.points
    [(0.0, 0.2), (2.0, 0.0)]
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[schedule])
    >>> [round(rate, 3) for rate in history.history["dropout"]]
    [0.2, 0.1, 0.0]

    Reference: Liu, Xu, Jin, Shen and Darrell, "Dropout reduces underfitting", ICML 2023.
    """

    def __init__(self, points: Sequence[tuple[float, float]], layers: Any = "all") -> None:
        super().__init__()
        pairs = [tuple(map(float, point)) for point in points]
        epochs = [epoch for epoch, *_ in pairs]
        good = bool(pairs) and all(len(p) == 2 and 0 <= p[1] <= 1 for p in pairs)
        if not good or epochs != sorted(epochs):
            raise ValueError(
                "DropoutSchedule needs pairs (epoch, rate) in the order of the epochs, with rates "
                f"in [0, 1], such as [(0, 0.1), (50, 0)]. Received {points!r}."
            )
        self.points = pairs
        self.layers = layers

    @classmethod
    def early(cls, rate: float, epochs: float, layers: Any = "all") -> "DropoutSchedule":
        """Returns the schedule that begins at `rate` and falls to 0 within `epochs` epochs."""
        return cls([(0, rate), (epochs, 0)], layers)

    @classmethod
    def late(cls, rate: float, epochs: float, layers: Any = "all") -> "DropoutSchedule":
        """Returns the schedule that drops nothing for `epochs` epochs, and then at `rate`."""
        return cls([(0, 0), (epochs, 0), (epochs, rate)], layers)

    def rate(self, epoch: float) -> float:
        """Returns the rate of an epoch."""
        epochs, rates = np.array(self.points).T
        return float(np.interp(epoch, epochs, rates))

    @property
    def sets(self) -> set[str]:
        """The rates that it sets."""
        return names_of_rates(self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the layers."""
        self._found, self._give_back = borrowed_dropout(self)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the rate."""
        set_rate(self._found, self.rate(epoch))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the rate."""
        if logs is not None:
            logs["dropout"] = self.rate(epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the layers their rates back."""
        self._give_back()

    def __str__(self) -> str:
        layers = "" if self.layers == "all" else f" of layers {self.layers!r}"
        return format_table(("epoch", "rate"), self.points, f"DropoutSchedule{layers}")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain data."""
        return super().get_config() | {"points": [list(point) for point in self.points]}
