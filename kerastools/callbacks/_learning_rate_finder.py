"""The learning rate range test."""

import warnings
from math import ceil
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.keras_private.training import (
    FitEnd,
    fit_callbacks,
    keep_changes,
    numbers_set_by,
)
from kerastools._core.notices import notify
from kerastools._core.plotting import axes_for, finished
from kerastools._core.registration import Configured
from kerastools.callbacks._mutable_hyperparameters import innermost, require_live

# How many losses tell the noise at the start, and the shortest sweep.
_FIRST, _LEAST = 5, 10


class LearningRateFinder(Configured, keras.callbacks.Callback):
    """Finds a learning rate in the first batches of `fit`, and lets `fit` go on with it.

    The rate grows from batch to batch, by a constant factor, until the loss explodes or `steps`
    batches have passed. Then weights, optimizer and all other state are put back to the bit, the
    learning rate is set to the suggestion, and training begins. `plot()` shows the curve.

    The suggestion is a tenth of the rate at which the smoothed loss is least: beyond that rate it
    begins to explode. Smoothing is an average with decay rate 1 − 10/`steps`, corrected for its
    start. The sweep ends when the smoothed loss has risen above its least value by twice what it
    fell, and by the noise of the first losses; losses may be negative.

    A `fit` that has fewer batches than `steps` gets a shorter sweep, over half of them, and below
    20 none; both are said in a warning. In the history, epochs without a step of training are NaN.

    Args:
        min_learning_rate: Where the sweep begins, greater than 0.
        max_learning_rate: Where it ends, if the loss has not exploded before.
        steps: Number of batches, at least 10. They may cover several epochs.

    Attributes:
        rates: The learning rates that were tried, one for each loss.
        losses: The loss of the batch at each.
        suggestion: The learning rate that was set; `None` if the loss never fell.

    Raises:
        ValueError: If an argument is outside its interval; and at the start of training if the
            learning rate comes from a schedule, or next to callbacks that set it too, that count
            epochs of training or that follow the loss: sweep in a `fit` without them.

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
        self._before: list[tuple[Any, Any]] = []  # While it sweeps.
        self._sweeps = False
        self._num_steps = self.steps
        self.losses: list[float] = []
        self.suggestion: float | None = None

    @property
    def sets(self) -> set[str]:
        """The hyperparameter that it sets."""
        return {"learning_rate"}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses what would not let the sweep alone."""
        require_live(innermost(self.model.optimizer), "learning_rate", "LearningRateFinder")
        for other in fit_callbacks():
            numbers = numbers_set_by(other)
            by_step = getattr(other, "per", None) == "batch" and numbers.isdisjoint(self.sets)
            if other is not self and numbers and not by_step:
                raise ValueError(
                    "LearningRateFinder needs a fit in which nothing else sets "
                    f"{', '.join(sorted(numbers))}. Received {type(other).__name__} in its "
                    "callbacks. Sweep in a fit of its own, then train with both the suggestion and "
                    f"{type(other).__name__}."
                )
        self.rates, self.losses, self.suggestion = [], [], None
        self._num_steps = -1  # Until the first epoch begins.
        self._give_back = FitEnd(self.model, self._restore)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Decides how long the sweep is, before the first step."""
        self._trains = False
        if self._num_steps < 0:
            self._num_steps = self._plan(self.params["epochs"] - epoch)
            self._sweeps = self._num_steps > 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the next rate; before the first, keeps all state, to put it back."""
        if not self._sweeps:
            return
        if not self._before:
            if not self.model.optimizer.built:
                # TensorFlow would build it in the first step, and its slots could not be put back.
                self.model.optimizer.build(self.model.trainable_variables)
            state = self.model.variables + self.model.optimizer.variables
            self._before = [(v, ops.convert_to_numpy(v).copy()) for v in state]
        # Keras's logs are averages over the epoch; a metric that was reset holds the batch's.
        self.model.reset_metrics()
        growth = self.max_learning_rate / self.min_learning_rate
        self._rate = self.min_learning_rate * growth ** (len(self.rates) / (self._num_steps - 1))
        innermost(self.model.optimizer).learning_rate = self._rate

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the loss, and ends the sweep when it has exploded or was long enough."""
        self._trains = not self._sweeps
        if self._sweeps:
            # Not before the step: at the end of an epoch Keras may announce one that never comes.
            self.rates.append(self._rate)
            self.losses.append(float((logs or {})["loss"]))
            if self._exploded() or len(self.rates) == self._num_steps:
                self._finish()
                self.model.reset_metrics()
                keep_changes(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Lets no epoch of the sweep look like one of training."""
        if self.rates and not self._trains and logs is not None:
            logs.update(dict.fromkeys(logs, float("nan")))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends a sweep that training was too short for."""
        if self._sweeps:
            notify(
                f"LearningRateFinder planned a sweep over {self._num_steps} batches, and fit ended "
                f"after {len(self.rates)}: nothing was trained, and the learning rate is left as "
                "it was. Pass more epochs to fit, or fewer steps to LearningRateFinder."
            )
        self._give_back()

    def smoothed_losses(self) -> np.ndarray:
        """Returns the average of the losses up to each rate."""
        smooth, average = [], 0.0
        # In a shorter sweep the average would lag behind the rate by a larger factor.
        decay = max(0.0, 1 - 10 / max(self._num_steps, 1))
        for t, loss in enumerate(self.losses, start=1):
            average = decay * average + (1 - decay) * loss
            smooth.append(average / (1 - decay**t))
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

    def _plan(self, epochs: int) -> int:
        """Returns how many batches the sweep takes of a `fit` of so many epochs."""
        if not self.params.get("steps"):
            return self.steps  # The data do not tell.
        total = epochs * ceil(self.params["steps"] / self.model.steps_per_execution)
        length = self.steps if self.steps <= total else total // 2 * (total >= 2 * _LEAST)
        if length < total and length == self.steps:
            return length
        done = {0: "there is no sweep, and the learning rate is left as it was"}
        done[total] = "nothing is trained"
        notify(
            f"LearningRateFinder sweeps over {self.steps} batches, and this fit has {total}: "
            f"{done.get(length, f'the sweep is over {length}, the rest is training')}. Pass more "
            "epochs to fit, or fewer steps to LearningRateFinder.",
        )
        return length

    def _exploded(self) -> bool:
        """Whether the loss has risen by twice what it fell, and by more than noise."""
        if len(self.losses) <= _FIRST or not np.isfinite(self.losses[-1]):
            return not np.isfinite(self.losses[-1])
        smooth, first = self.smoothed_losses(), np.array(self.losses[:_FIRST])
        lowest, start = np.min(smooth), np.mean(first)
        noise = 4 * np.std(first) + 1e-5 * abs(start)
        return bool(smooth[-1] > lowest + 2 * max(start - lowest, 0.0) + noise)

    def _finish(self) -> None:
        """Puts all state back and sets the suggestion."""
        self._restore()
        self.suggestion = self._suggest()
        if self.suggestion is None:
            warnings.warn(
                f"LearningRateFinder saw no loss that fell between {self.rates[0]:g} and "
                f"{self.rates[-1]:g}. The learning rate is left as it was. Try a wider range, or "
                "more steps; kerastools.diagnosis.diagnose may tell why the model does not learn.",
                stacklevel=2,
            )
        else:
            innermost(self.model.optimizer).learning_rate = self.suggestion

    def _restore(self) -> None:
        before = self._before if self.model.built else []  # `self.model` brings JAX's state here.
        for variable, value in before:
            variable.assign(value)
        self._before, self._sweeps = [], False

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
