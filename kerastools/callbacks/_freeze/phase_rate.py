"""The learning rate of a phase: a factor on whatever rate the optimizer has."""

from typing import Any

import keras

from kerastools._core.keras_private.optimizer_hooks import learning_rate_source
from kerastools._core.registration import Configured, register
from kerastools.callbacks._freeze.phase import Phase


def phase_rates(optimizer: Any) -> list["PhaseRate"]:
    """Returns the learning rate of `optimizer`; those of all its parts if it is made of several."""
    if hasattr(optimizer, "inner_optimizer"):
        return phase_rates(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):
        return [rate for part in optimizer.optimizers for rate in phase_rates(part)]
    return [PhaseRate(optimizer)]


class PhaseRate:
    """Multiplies an optimizer's learning rate, phase by phase, and gives it back at the end.

    What others do to the rate meanwhile (`ReduceLROnPlateau`, a callback of the user) is kept: the
    base rate is multiplied by the same.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.source = learning_rate_source(optimizer)
        self.settable = isinstance(self.source, keras.Variable)
        self.scheduled = isinstance(self.source, keras.optimizers.schedules.LearningRateSchedule)
        if self.settable:
            self.base = self.last = self._now()

    def check(self, phase: Phase) -> None:
        """Raises `ValueError` if the learning rate cannot be set as `phase` asks."""
        absolute = phase.learning_rate is not None
        if self.settable or (self.scheduled and not absolute):
            return
        if absolute or phase.lr_multiplier != 1.0:
            raise ValueError(
                f"FreezeSchedule cannot set the learning rate of phase {phase.layers!r}: that of "
                f"the {type(self.optimizer).__name__} comes from {self.source!r}. Use "
                "lr_multiplier with a LearningRateSchedule, or compile with a number."
            )

    def begin(self, phase: Phase) -> None:
        """Sets the learning rate of `phase`."""
        if self.scheduled:
            factor = phase.lr_multiplier
            scaled = self.source if factor == 1.0 else ScaledSchedule(self.source, factor)
            self.optimizer.learning_rate = scaled
        elif self.settable:
            self._follow()
            absolute = phase.learning_rate
            self._set(self.base * phase.lr_multiplier if absolute is None else absolute)

    def release(self) -> None:
        """Gives the optimizer back the rate that it had, with the changes of others."""
        if self.scheduled:
            self.optimizer.learning_rate = self.source
        elif self.settable:
            self._follow()
            self._set(self.base)

    def state(self) -> float | None:
        """Returns the base rate, for a backup."""
        if not self.settable:
            return None
        self._follow()
        return self.base

    def set_state(self, base: float | None) -> None:
        """Goes on with the base rate of a backup; the optimizer's own has been restored."""
        if base is not None:
            self.base, self.last = base, self._now()

    def _follow(self) -> None:
        now = self._now()
        if now != self.last:
            self.base = self.base * now / self.last if self.last else now
            self.last = now

    def _set(self, rate: float) -> None:
        self.optimizer.learning_rate = float(rate)
        self.last = self._now()

    def _now(self) -> float:
        return float(keras.ops.convert_to_numpy(self.source))


@register
class ScaledSchedule(Configured, keras.optimizers.schedules.LearningRateSchedule):
    """Returns factor · schedule(step): what `FreezeSchedule` puts in place of a schedule.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        factor: The number it is multiplied by.

    Example:

    >>> schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    >>> float(ScaledSchedule(schedule, 0.5)(10))
    0.125
    """

    _objects = ("schedule",)

    def __init__(self, schedule: Any, factor: float) -> None:
        self.schedule = schedule
        self.factor = float(factor)

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate in step `step`."""
        return self.schedule(step) * self.factor
