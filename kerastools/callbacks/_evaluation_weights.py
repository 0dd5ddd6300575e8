"""Evaluation at the weights that an optimizer means, while it trains at others."""

from typing import Any

import keras


class EvaluationWeights(keras.callbacks.Callback):
    """Puts the optimizer's evaluation weights into the model whenever they are wanted.

    Some optimizers take their gradients beside the weights that are meant: exact Nesterov momentum
    at θ − γv. This callback swaps them in for validation, for every callback that stands after it
    in the list at the end of an epoch (`ModelCheckpoint`, `EarlyStopping`), and at the end of
    training, and swaps the training weights back before the next step. Training is not disturbed:
    two fits with an evaluation between are, bit for bit, one fit. After training the model holds
    its evaluation weights; pass this callback again to the `fit` that goes on.

    A model that was saved at its evaluation weights knows so; it is trained on from the right
    weights up to rounding. `ModelCheckpoint(save_freq=n)` saves inside an epoch, where the model
    stands at its training weights.

    Raises:
        ValueError: At the start of training, if the optimizer trains at the weights it evaluates.

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

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses an optimizer that has no evaluation weights."""
        self._optimizer()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the training weights back."""
        self._optimizer().to_training()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the evaluation weights in, for the callbacks after this one."""
        self._optimizer().to_evaluation()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the evaluation weights in."""
        optimizer = self._optimizer()
        self._was_training = not optimizer.at_evaluation
        optimizer.to_evaluation()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts back what was in the model before the test."""
        if self._was_training:
            self._optimizer().to_training()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the evaluation weights in the model."""
        self._optimizer().to_evaluation()

    def _optimizer(self) -> Any:
        optimizer = self.model.optimizer
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        if not getattr(optimizer, "trains_elsewhere", False):
            raise ValueError(
                "EvaluationWeights needs an optimizer that trains at other weights than it "
                'evaluates, such as kerastools.optimizers.SGD(nesterov="exact"). Received '
                f"{type(optimizer).__name__}, which evaluates where it trains: leave the callback "
                "out."
            )
        return optimizer
