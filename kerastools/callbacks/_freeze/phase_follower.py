"""A schedule that goes its way while a part of the model is trained in the model's place."""

from typing import Any

import keras

from kerastools._core.keras_private.training import StepValues
from kerastools.callbacks._freeze.freeze_schedule import FreezeSchedule


class PhaseFollower(keras.callbacks.Callback):
    """Lets a schedule see the training of a part as that of the whole model, in its first phase.

    On entering, flags, rates and optimizer are set as the first phase says; pass it to the `fit` of
    the part, which it ends with the phase; on leaving, the schedule is ready for the rest of the
    run in `fit(initial_epoch=...)` of the model.

    Args:
        schedule: The schedule; its first phase must not end after steps.
        model: The whole model.
    """

    def __init__(self, schedule: FreezeSchedule, model: Any) -> None:
        super().__init__()
        self.schedule = schedule
        self.whole = model

    def __enter__(self) -> "PhaseFollower":
        self.schedule.set_model(self.whole)
        self.schedule.on_train_begin()
        self.schedule.on_epoch_begin(0)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.schedule.on_train_end()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Lets the rates of the phase act in the steps of the part."""
        StepValues(self.model, self.schedule.step_values)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Passes it on."""
        self.schedule.set_params(self.params)
        self.schedule.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Passes it on."""
        self.schedule.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Passes it on, and ends training with the phase."""
        self.schedule.on_epoch_end(epoch, logs)
        if self.schedule.phase_ended:
            self.model.stop_training = True
