"""The learning rate range test."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.plotting import axes_for, finished
from kerastools._core.registration import Configured
from kerastools.callbacks._mutable_hyperparameters import innermost, require_live

_FIRST = 5


class LearningRateFinder(Configured, keras.callbacks.Callback):
    """Finds a learning rate in the first batches of `fit`, and lets `fit` go on with it.

    The rate grows from batch to batch, by a constant factor, until the loss explodes or `steps`
    batches have passed. Then weights, optimizer and all other state are put back to the bit, the
    learning rate is set to the suggestion, and training begins. `plot()` shows the curve.

    The suggestion is a tenth of the rate at which the smoothed loss is least: beyond that rate it
    begins to explode. Smoothing is an average with decay rate 0.9, corrected for its start; the
    sweep ends when it exceeds four times its least value.

    Args:
        min_learning_rate: Where the sweep begins, greater than 0.
        max_learning_rate: Where it ends, if the loss has not exploded before.
        steps: Number of batches, at least 10. They may cover several epochs.

    Attributes:
        rates: The learning rates that were tried.
        losses: The loss of the batch at each.
        suggestion: The learning rate that was set; `None` if the loss never fell.

    Raises:
        ValueError: If an argument is outside its interval; and at the start of training if the
            learning rate comes from a schedule.

    Example:

    >>> keras.utils.set_random_seed(1)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(), "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 4))
    >>> finder = LearningRateFinder(1e-4, 10.0, steps=50)
    >>> _ = model.fit(x, x.sum(1), batch_size=8, epochs=10, verbose=0, callbacks=[finder])
    >>> 0.01 < finder.suggestion < 1.0
    True

    Reference: Smith, "Cyclical learning rates for training neural networks", WACV 2017, section
    3.3.
    """

    def __init__(
        self, min_learning_rate: float = 1e-6, max_learning_rate: float = 10.0, steps: int = 100
    ) -> None:
        super().__init__()
        if not 0 < min_learning_rate < max_learning_rate:
            raise ValueError(
                "LearningRateFinder needs 0 < min_learning_rate < max_learning_rate. Received "
                f"min_learning_rate={min_learning_rate!r} and "
                f"max_learning_rate={max_learning_rate!r}."
            )
        if int(steps) != steps or steps < 10:
            raise ValueError(
                f"LearningRateFinder needs steps to be an integer >= 10. Received steps={steps!r}."
            )
        self.min_learning_rate = float(min_learning_rate)
        self.max_learning_rate = float(max_learning_rate)
        self.steps = int(steps)
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.suggestion: float | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keeps all state, to put it back after the sweep."""
        require_live(innermost(self.model.optimizer), "learning_rate", "LearningRateFinder")
        self.rates, self.losses, self.suggestion = [], [], None
        if not self.model.optimizer.built:
            # TensorFlow would build it in the first step, and its slots could not be put back.
            self.model.optimizer.build(self.model.trainable_variables)
        state = self.model.variables + self.model.optimizer.variables
        self._before = [(v, ops.convert_to_numpy(v).copy()) for v in state]

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the next rate."""
        if self._before:
            # Keras's logs are averages over the epoch; a metric that was reset holds the batch's.
            self.model.reset_metrics()
            growth = self.max_learning_rate / self.min_learning_rate
            rate = self.min_learning_rate * growth ** (len(self.rates) / (self.steps - 1))
            innermost(self.model.optimizer).learning_rate = rate
            self.rates.append(rate)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the loss, and ends the sweep when it has exploded or was long enough."""
        if self._before:
            self.losses.append(float((logs or {})["loss"]))
            smooth = self.smoothed_losses()
            exploded = not smooth[-1] <= 4 * np.nanmin(smooth)
            if exploded or len(self.rates) == self.steps:
                self._finish()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends a sweep that training was too short for."""
        if self._before:
            self._finish()

    def smoothed_losses(self) -> np.ndarray:
        """Returns the average of the losses up to each rate, with decay rate 0.9."""
        smooth, average = [], 0.0
        for t, loss in enumerate(self.losses, start=1):
            average = 0.9 * average + 0.1 * loss
            smooth.append(average / (1 - 0.9**t))
        return np.array(smooth)

    def plot(self, target: Any = None) -> Any:
        """Draws loss over learning rate with the suggestion.

        Args:
            target: The path of a picture to write, or matplotlib axes to draw on. By default a new
                figure, which is neither written nor shown.

        Returns:
            The matplotlib figure.

        Raises:
            ValueError: If there was no sweep yet.
            ImportError: If matplotlib is missing; `pip install 'kerastools[plot]'` brings it.
        """
        if not self.rates:
            raise ValueError(
                "LearningRateFinder.plot needs a sweep to draw. Received a finder without one. "
                "Pass it to fit first: model.fit(x, y, callbacks=[finder])."
            )
        axes = axes_for(target, "LearningRateFinder.plot")
        smooth = self.smoothed_losses()
        shown = np.isfinite(smooth)
        rates = np.array(self.rates)
        axes.plot(
            rates[shown], np.array(self.losses)[shown], color="0.8", label="loss of the batch"
        )
        axes.plot(rates[shown], smooth[shown], color="C0", label="smoothed")
        if self.suggestion is not None:
            label = f"suggestion {self.suggestion:.2g}"
            axes.axvline(self.suggestion, color="C1", linestyle="--", label=label)
        axes.set_xscale("log")
        axes.set_ylim(*_limits(smooth[shown]))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        axes.legend()
        return finished(axes.figure, target)

    def _finish(self) -> None:
        optimizer = innermost(self.model.optimizer)
        for variable, value in self._before:
            variable.assign(value)
        self._before = []
        self.suggestion = self._suggest()
        if self.suggestion is None:
            warnings.warn(
                f"LearningRateFinder saw no loss that fell between {self.rates[0]:g} and "
                f"{self.rates[-1]:g}. The learning rate is left as it was. Try a wider range, or "
                "more steps; kerastools.diagnosis.diagnose may tell why the model does not learn.",
                stacklevel=2,
            )
        else:
            optimizer.learning_rate = self.suggestion

    def _suggest(self) -> float | None:
        # The average of the first few losses is one of noise.
        smooth = self.smoothed_losses()[_FIRST:]
        if not np.isfinite(smooth).any():
            return None
        lowest = int(np.nanargmin(smooth))
        return self.rates[_FIRST + lowest] / 10 if lowest > 0 else None


def _limits(smooth: np.ndarray) -> tuple[float, float]:
    """Returns a range of losses in which the fall can be seen, and not the whole explosion."""
    lowest = int(np.argmin(smooth[_FIRST:])) + _FIRST if len(smooth) > _FIRST else len(smooth) - 1
    low, high = float(smooth.min()), float(smooth[: lowest + 1].max())
    margin = 0.2 * (high - low) or 1.0
    return low - margin, high + margin
