"""Evaluation, checkpoints and export with averaged weights, for optimizers that keep them."""

from typing import Any

import keras

from kerastools._core.keras_private.patched import patched
from kerastools._core.keras_private.training import fit_callbacks, holds, model_that_builds
from kerastools._core.notices import notify
from kerastools._core.registration import Configured
from kerastools.optimizers._base.evaluation_point import WHEN_BUILT, EvaluationPoint
from kerastools.optimizers._base.slots import optimizer_tree


class EvaluationWeights(Configured, keras.callbacks.Callback):
    """Validates, checkpoints and ends training with the optimizer's evaluation weights.

    Some optimizers compute gradients at other weights than those to evaluate: exact Nesterov
    momentum at θ − γv, Schedule-Free between its iterates and their average, `Lookahead` at its
    fast weights, and any optimizer of this package with a moving average of the weights
    (`use_ema=True`). This callback swaps the evaluation weights in for validation, for the
    callbacks at the end of an epoch (`ModelCheckpoint`, `EarlyStopping`; without validation, those
    after it in the list), and at the end of training, and swaps the training weights back before
    the next epoch. Training does not change: two fits with an evaluation in between equal one fit,
    bit for bit. After training the model holds its evaluation weights; pass this callback again to
    the next `fit`.

    A model saved at its evaluation weights records that, and resumes from its training weights up
    to rounding. `ModelCheckpoint(save_freq=n)` saves inside an epoch, at the training weights.

    With an optimizer that trains at its evaluation weights this callback does nothing. A model that
    is evaluated or saved at the training weights, and never was with this callback, says so once by
    a `KerastoolsNotice`.

    Raises:
        ValueError: At the start of training, if an optimizer of Keras's own keeps a moving average
            (`use_ema`), which ends in the model whatever this callback does; or next to
            `keras.callbacks.SwapEMAWeights`.

    Example:

    >>> import numpy as np
    >>> from kerastools.optimizers import SGD
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(SGD(0.05, momentum=0.9, nesterov="exact"), "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[EvaluationWeights()])
    >>> model.optimizer.at_evaluation
    True
    """

    def set_model(self, model: keras.Model) -> None:
        """Is called by `fit`, and by an `evaluate` that is given this callback itself."""
        super().set_model(model)
        self._in_fit = False
        for point in self._points():
            point.uses_evaluation_weights = True

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses Keras's moving average."""
        for optimizer in optimizer_tree(self.model.optimizer):
            if optimizer.use_ema and not isinstance(optimizer, EvaluationPoint):
                raise ValueError(
                    f"EvaluationWeights received a {type(optimizer).__name__} of Keras's own with "
                    "use_ema=True. Keras puts that average into the model for good when training "
                    "ends. Use an optimizer of kerastools.optimizers, whose average this callback "
                    "swaps in and out, or keras.callbacks.SwapEMAWeights."
                )
        if any(isinstance(c, keras.callbacks.SwapEMAWeights) for c in fit_callbacks()):
            raise ValueError(
                "EvaluationWeights and SwapEMAWeights both swap the moving average into the model, "
                "and one would swap it out again. Received both in the callbacks of one fit. Leave "
                "SwapEMAWeights out."
            )
        self._in_fit = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the training weights back."""
        self._to_training()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the evaluation weights in, for the callbacks after this one."""
        self._to_evaluation()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the evaluation weights in."""
        self._swapped_for_test = self._to_evaluation()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts back what was there before; after `fit`'s own validation the epoch's end comes."""
        if self._swapped_for_test and not self._in_fit:
            self._to_training()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the evaluation weights in the model."""
        self._to_evaluation()

    def _to_evaluation(self) -> bool:
        """Puts the evaluation weights in; returns whether the training weights were there."""
        swapped = [point.to_evaluation() for point in self._points()]
        return any(swapped)

    def _to_training(self) -> None:
        for point in self._points():
            point.to_training()

    def _points(self) -> list[EvaluationPoint]:
        tree = optimizer_tree(self.model.optimizer)
        return [part for part in tree if isinstance(part, EvaluationPoint)]


def _remind(optimizer: Any) -> None:
    """Lets the model say once that it is evaluated or saved at the training weights."""
    model = model_that_builds(optimizer)
    if model is None:
        return

    def reminding(done: str) -> Any:
        def method(plain: Any, *args: Any, **kwargs: Any) -> Any:
            callbacks = kwargs.get("callbacks") or ()
            swapping = (EvaluationWeights, keras.callbacks.SwapEMAWeights)
            swaps = any(isinstance(c, swapping) for c in getattr(callbacks, "callbacks", callbacks))
            if optimizer.uses_evaluation_weights or not holds(model.optimizer, optimizer):
                patch.undo()
            elif not (swaps or optimizer.at_evaluation or int(optimizer.iterations) == 0):
                patch.undo()
                notify(
                    f'Model "{model.name}" is {done} at the weights that its '
                    f"{type(optimizer).__name__} trains, which are not those to evaluate. Pass "
                    "kerastools.callbacks.EvaluationWeights() to fit, or call "
                    "model.optimizer.to_evaluation() first.",
                    stacklevel=4,
                )
            return plain(*args, **kwargs)

        return method

    saved = {name: reminding("saved") for name in ("save", "export")}
    patch = patched(model, evaluate=reminding("evaluated"), **saved)


WHEN_BUILT.append(_remind)
