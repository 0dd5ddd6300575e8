"""A learning-rate schedule times a number."""

from typing import Any

import keras

from kerastools._core.registration import register


@register
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Returns factor · schedule(step): what `FreezeSchedule` puts in place of a schedule.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        factor: The number it is multiplied by.

    Example:

    >>> schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    >>> float(ScaledSchedule(schedule, 0.5)(10))
    0.125
    """

    def __init__(self, schedule: Any, factor: float) -> None:
        self.schedule = schedule
        self.factor = float(factor)

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate in step `step`."""
        return self.schedule(step) * self.factor

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ScaledSchedule":
        """Returns the schedule that `get_config` described."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["factor"])
