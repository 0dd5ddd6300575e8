"""How long an epoch takes."""

import time
from typing import Any

import keras


class Clock(keras.callbacks.Callback):
    """Measures the CPU seconds of epochs, but the first, which is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.started = 0.0
        self.seconds: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self.started = time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops it."""
        seconds = time.process_time() - self.started
        if epoch > 0:
            self.seconds = seconds if self.seconds is None else min(self.seconds, seconds)
