"""The learning rate of a phase: a factor on whatever rate the optimizer has."""

from collections.abc import Callable
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

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
    """The learning rate of a phase, inside the training steps only.

    The variable that the optimizer, its schedulers and its saved files know is left alone: what
    others set is the rate that a multiplier acts on. A phase's own rate is a factor too, of the
    rate at its start, so that `ReduceLROnPlateau` reduces it.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.source = learning_rate_source(optimizer)
        self.settable = isinstance(self.source, keras.Variable)
        self.scheduled = isinstance(self.source, LearningRateSchedule)
        self.begun_at = 0.0

    def check(self, phase: Phase) -> None:
        """Raises `ValueError` if the learning rate cannot be set as `phase` asks."""
        own = phase.learning_rate
        if self.settable or (self.scheduled and (own is None or callable(own))):
            return
        if own is not None or phase.lr_multiplier != 1.0:
            raise ValueError(
                f"FreezeSchedule cannot set the learning rate of phase {phase.layers!r}: that of "
                f"the {type(self.optimizer).__name__} comes from {self.source!r}. Use "
                "lr_multiplier with a LearningRateSchedule, or compile with a number."
            )

    def begin(self, phase: Phase, steps: int) -> bool:
        """Begins `phase`, of which `steps` were made; whether the step must be compiled again."""
        self.phase = phase
        if self.settable:
            self.begun_at = float(keras.ops.convert_to_numpy(self.source))
        if not self.scheduled:
            return False
        now, wanted = learning_rate_source(self.optimizer), self.source
        if phase.learning_rate is not None:
            start = int(keras.ops.convert_to_numpy(self.optimizer.iterations))
            wanted = ScaledSchedule(phase.learning_rate, 1.0, start - self._updates(steps))
        elif phase.lr_multiplier != 1.0:
            wanted = ScaledSchedule(self.source, phase.lr_multiplier)
        if _config(now) == _config(wanted):
            return False
        self.optimizer.learning_rate = wanted
        return True

    def values(self, steps: int) -> list[tuple[Any, Callable[[float], float]]]:
        """Returns the variable and what it holds inside the step that comes after `steps`."""
        own = self.phase.learning_rate
        if not self.settable or (own is None and self.phase.lr_multiplier == 1.0):
            return []

        def inside(rate: float) -> float:
            if own is None:
                return rate * self.phase.lr_multiplier
            updates = self._updates(steps)
            wanted = float(keras.ops.convert_to_numpy(own(updates)) if callable(own) else own)
            return wanted * (rate / self.begun_at) if self.begun_at else wanted

        return [(self.source, inside)]

    def release(self) -> bool:
        """Gives the optimizer its schedule back; whether the step must be compiled again."""
        if not self.scheduled or learning_rate_source(self.optimizer) is self.source:
            return False
        self.optimizer.learning_rate = self.source
        return True

    def _updates(self, steps: int) -> int:
        return steps // (self.optimizer.gradient_accumulation_steps or 1)


def _config(schedule: Any) -> Any:
    return keras.saving.serialize_keras_object(schedule)


@register
class ScaledSchedule(Configured, LearningRateSchedule):
    """Returns factor · schedule(step − start): what `FreezeSchedule` puts in place of a schedule.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        factor: The number it is multiplied by.
        start: The step at which `schedule` begins.

    Example:

    >>> schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    >>> float(ScaledSchedule(schedule, 0.5)(10))
    0.125
    """

    _objects = ("schedule",)

    def __init__(self, schedule: Any, factor: float, start: int = 0) -> None:
        self.schedule = schedule
        self.factor = float(factor)
        self.start = start

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate in step `step`."""
        return self.schedule(step - self.start) * self.factor
