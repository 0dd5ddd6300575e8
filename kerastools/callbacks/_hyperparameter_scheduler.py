"""A hyperparameter of the optimizer that follows a function."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kerastools._core.registration import Configured
from kerastools.callbacks._mutable_hyperparameters import borrow, innermost


class HyperparameterScheduler(Configured, keras.callbacks.Callback):
    """Schedules a hyperparameter of the optimizer by a function of the epoch or of the step.

    Works for every mutable hyperparameter: learning rate, momentum, β₁, β₂, ρ, ε, weight decay and
    clipping thresholds of `kerastools.optimizers`; the learning rate of Keras's optimizers. It
    acts on the next step, without another trace, and is in the epoch's logs under its name. When
    `fit` ends, the hyperparameter is again what it was before.

    For a schedule per step, a function given to the optimizer itself,
    `Adam(beta_1=function_of_the_step)`, costs nothing; here the model's state is fetched in every
    batch on JAX. Use this callback where the function is not made of tensor operations, or for
    a schedule by the epoch.

    Args:
        name: The optimizer's attribute, `"beta_1"` for instance.
        function: A function of the epoch or step, both counted from 0, that returns the value; a
            `keras.optimizers.schedules.LearningRateSchedule` will do. The step is the optimizer's
            `iterations`: it goes on when training is resumed, and counts updates where gradients
            are accumulated.
        per: `"epoch"` or `"batch"`.

    Raises:
        ValueError: If `per` is neither; and at the start of training if the hyperparameter is not
            mutable or another callback sets it too. A value outside its interval is refused by
            the optimizer.

    Example:

    >>> import numpy as np
    >>> from kerastools.optimizers import SGD
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(SGD(0.05, momentum=0.5), "mse")
    >>> scheduler = HyperparameterScheduler("momentum", lambda epoch: 0.5 + 0.1 * epoch)
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[scheduler])
    >>> [round(momentum, 3) for momentum in history.history["momentum"]]
    [0.5, 0.6, 0.7]
    """

    _objects = ("function",)

    def __init__(self, name: str, function: Callable[[int], Any], per: str = "epoch") -> None:
        super().__init__()
        if per not in ("epoch", "batch"):
            raise ValueError(
                f'HyperparameterScheduler needs per to be "epoch" or "batch". Received per={per!r}.'
            )
        if not callable(function):
            raise ValueError(
                "HyperparameterScheduler needs a function of the epoch or step. Received "
                f"function={function!r}. A constant needs no schedule."
            )
        self.name = name
        self.function = function
        self.per = per

    @property
    def needs_every_batch(self) -> bool:
        """Whether an accelerated `fit` must run one step a call."""
        return self.per == "batch"

    @property
    def sets(self) -> set[str]:
        """The hyperparameter that it sets."""
        return {self.name}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that the hyperparameter is mutable, and keeps its value."""
        self._give_back = borrow(self, self.name)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the value of this epoch."""
        if self.per == "epoch":
            self._set(epoch)
            self._used = self._value

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the value of this step."""
        if self.per == "batch":
            self._set(int(ops.convert_to_numpy(innermost(self.model.optimizer).iterations)))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the value that the step had."""
        self._used = self._value

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the value of the last step."""
        if logs is not None:
            logs[self.name] = self._used

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the hyperparameter back."""
        self._give_back()

    def _set(self, index: int) -> None:
        self._value = float(ops.convert_to_numpy(self.function(index)))
        setattr(innermost(self.model.optimizer), self.name, self._value)
