"""Callbacks that `PopulationTuner` adds to the training of every trial."""

import time
from typing import Any

import keras
import numpy as np

from kerastools.search._reuse.model_cache import state_of
from kerastools.search._successive_halving import Rungs


class BestState(keras.callbacks.Callback):
    """Copies the state of the model in the best epoch of all executions of a trial.

    keras-tuner writes a file in every epoch that improves, which in small nets takes as long as the
    epoch. This copies the state, which is then written once.
    """

    def __init__(self, objective: Any) -> None:
        super().__init__()
        self.objective = objective
        self.value: float | None = None
        self.arrays: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Copies the state if this epoch is the best."""
        if not self.objective.has_value(logs):
            value = None  # It is computed after fit: the last epoch counts.
        else:
            value = float(self.objective.get_value(logs))
            if np.isnan(value):
                return
            if self.value is not None and not self.objective.better_than(value, self.value):
                return
        self.value = value
        self.arrays = [keras.ops.convert_to_numpy(v) for v in state_of(self.model)]


class StopAtRung(keras.callbacks.Callback):
    """Stops training at a rung of successive halving that the trial does not pass."""

    def __init__(self, rungs: Rungs, name: str, best: Any) -> None:
        super().__init__()
        self.rungs = rungs
        self.name = name
        self.best = best
        self.stopped = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compares the best value so far with those of other trials at this rung."""
        value = np.nan if self.best.value is None else self.best.value
        if self.rungs.arrive(epoch + 1, self.params["epochs"], {self.name: value}):
            self.stopped = epoch + 1
            self.model.stop_training = True


class EpochTimer(keras.callbacks.Callback):
    """Measures the CPU seconds of an epoch, without the first one, which compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.started = 0.0
        self.seconds: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the timer."""
        self.started = time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops the timer."""
        seconds = time.process_time() - self.started
        if epoch > 0:
            self.seconds = seconds if self.seconds is None else min(self.seconds, seconds)


class Hooks(keras.callbacks.Callback):
    """Calls the epoch hooks of the tuner, which a subclass may override."""

    def __init__(self, tuner: Any, trial: Any) -> None:
        super().__init__()
        self.tuner = tuner
        self.trial = trial

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.tuner.on_epoch_begin(self.trial, self.model, epoch, logs=logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.tuner.on_epoch_end(self.trial, self.model, epoch, logs=logs)


class BatchHooks(Hooks):
    """Calls the batch hooks, too, which take time."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.tuner.on_batch_begin(self.trial, self.model, batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.tuner.on_batch_end(self.trial, self.model, batch, logs)
