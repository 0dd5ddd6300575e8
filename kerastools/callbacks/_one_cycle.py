"""The 1cycle policy: learning rate up and down, momentum down and up."""

from math import cos, pi
from typing import Any

import keras

from kerastools._core.registration import Configured
from kerastools._core.table import Printed, format_table
from kerastools.callbacks._mutable_hyperparameters import borrow, innermost, live_numbers


class OneCycle(Printed, Configured, keras.callbacks.Callback):
    """Cycles the learning rate up and down once per training, and the momentum against it.

    Trains in fewer epochs at rates that would otherwise diverge; the large rates in the middle
    regularise. Take the rate that `LearningRateFinder` suggests, or up to ten times it, as the
    largest. The cycle spans the whole `fit`; to go on inside it, pass `initial_epoch`. When `fit`
    ends, learning rate and momentum are again what they were before.

    With T steps, of which the first pT rise, and the half wave w(x) = (1 − cos πx)/2 from 0 to 1,
    in step t = 0, 1, …, T − 1:

        rising:   η = η₀ + (η_max − η₀) w(t / (pT − 1))
        falling:  η = η_max + (η₁ − η_max) w((t − pT + 1) / (T − pT))

    and the momentum likewise from its largest to its least and back,

    with η₀ = η_max / `start_divisor` and η₁ = η_max / `end_divisor`.

    Args:
        max_learning_rate: η_max, greater than 0.
        momentum: The pair of the largest and the least momentum: γ where the optimizer has one
            (SGD), else β₁ (Adam). `"auto"` is (0.95, 0.85) for an optimizer of
            `kerastools.optimizers` that has either; others are left alone, as by `None`.
        rising: p, the part of the steps in which the learning rate rises, in (0, 1).
        start_divisor: At least 1.
        end_divisor: At least 1.

    Raises:
        ValueError: If a number is outside its interval; and at the start of training if learning
            rate or momentum is not mutable, another callback sets it too, or the number of steps is
            unknown.

    Example:

    >>> import numpy as np
    >>> from kerastools.optimizers import SGD
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(SGD(0.05, momentum=0.9), "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> cycle = OneCycle(0.1)
    >>> _ = model.fit(x, y, epochs=10, batch_size=4, verbose=0, callbacks=[cycle])
    >>> [round(cycle.learning_rate_at(t, 20), 4) for t in (0, 5, 12, 19)]
    [0.004, 0.1, 0.05, 0.0]

    Reference: Smith and Topin, "Super-convergence: very fast training of neural networks using
    large learning rates", 2018; the half waves are fastai's.
    """

    def __init__(
        self,
        max_learning_rate: float = 0.1,
        momentum: Any = "auto",
        rising: float = 0.3,
        start_divisor: float = 25.0,
        end_divisor: float = 1e5,
    ) -> None:
        super().__init__()
        if not max_learning_rate > 0:
            raise ValueError(
                "OneCycle needs max_learning_rate greater than 0. Received "
                f"max_learning_rate={max_learning_rate!r}."
            )
        if not 0 < rising < 1:
            raise ValueError(f"OneCycle needs rising in (0, 1). Received rising={rising!r}.")
        if not (start_divisor >= 1 and end_divisor >= 1):
            raise ValueError(
                "OneCycle needs divisors of at least 1. Received start_divisor="
                f"{start_divisor!r} and end_divisor={end_divisor!r}."
            )
        if momentum not in (None, "auto") and not (
            len(momentum) == 2 and 0 <= momentum[1] <= momentum[0] < 1
        ):
            raise ValueError(
                'OneCycle needs momentum to be (largest, least) in [0, 1), "auto" or None. '
                f"Received momentum={momentum!r}."
            )
        self.max_learning_rate = float(max_learning_rate)
        self.momentum = momentum if momentum in (None, "auto") else tuple(momentum)
        self.rising = float(rising)
        self.start_divisor = float(start_divisor)
        self.end_divisor = float(end_divisor)

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """Returns η in one of `num_steps` steps, counted from 0."""
        top = self.max_learning_rate
        start, end = top / self.start_divisor, top / self.end_divisor
        return self._wave(step, num_steps, start, top, end)

    def momentum_at(self, step: int, num_steps: int) -> float:
        """Returns the momentum in one of `num_steps` steps, counted from 0."""
        largest, least = (0.95, 0.85) if self.momentum == "auto" else self.momentum
        return self._wave(step, num_steps, largest, least, largest)

    @property
    def sets(self) -> set[str]:
        """The hyperparameters that it sets."""
        live = live_numbers(innermost(self.model.optimizer))
        found = [name for name in ("momentum", "beta_1") if name in live][:1]
        if self.momentum not in (None, "auto") and not found:
            found = ["momentum"]
        return {"learning_rate", *(() if self.momentum is None else found)}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds out how many steps there are and what the momentum is called."""
        if not self.params.get("steps"):
            raise ValueError(
                "OneCycle needs to know the number of steps per epoch, and this data does not "
                "tell it. Pass steps_per_epoch to fit."
            )
        names = sorted(self.sets, reverse=True)
        self._give_back = borrow(self, *names)
        self._momentum_name = next((n for n in names if n != "learning_rate"), None)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets learning rate and momentum of this step."""
        optimizer = innermost(self.model.optimizer)
        steps = self.params["steps"]
        at = self._epoch * steps + batch, self.params["epochs"] * steps
        optimizer.learning_rate = self.learning_rate_at(*at)
        if self._momentum_name:
            setattr(optimizer, self._momentum_name, self.momentum_at(*at))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives learning rate and momentum back."""
        self._give_back()

    def __str__(self) -> str:
        top = self.max_learning_rate
        rates = top / self.start_divisor, top, top / self.end_divisor
        largest, least = (0.95, 0.85) if self.momentum == "auto" else self.momentum or ("-", "-")
        rows = zip((0.0, self.rising, 1.0), rates, (largest, least, largest), strict=True)
        return format_table(("part of the steps", "learning rate", "momentum"), rows, "OneCycle")

    def _wave(self, step: int, num_steps: int, start: float, top: float, end: float) -> float:
        """Returns a value on the half waves from `start` to `top` to `end`."""
        peak = max(1, round(self.rising * num_steps) - 1)
        if step <= peak:
            a, b, x = start, top, step / peak
        else:
            a, b, x = top, end, (step - peak) / max(1, num_steps - 1 - peak)
        return a + (b - a) * (1 - cos(pi * min(x, 1.0))) / 2
