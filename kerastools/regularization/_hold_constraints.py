"""Constraints that hold for averaged weights too."""

from typing import Any

import keras

from kerastools._core.registration import Configured


class HoldConstraints(Configured, keras.callbacks.Callback):
    """Applies every constraint once more when training ends, to the weights that are kept.

    With `use_ema=True` Keras averages each weight before its constraint is applied, and puts the
    average into the model at the end of `fit`: its norm may be above the bound that every update
    kept. Use this callback with `use_ema` and any constraint; it does nothing where all hold.

    Example:

    >>> import numpy as np
    >>> from kerastools.constraints import MaxNorm
    >>> layer = keras.layers.Dense(1, kernel_initializer="zeros", kernel_constraint=MaxNorm(0.5))
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> model.compile(keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5), "mse")
    >>> x, y = np.ones((8, 2)), np.full((8, 1), 9.0)
    >>> _ = model.fit(x, y, verbose=0, callbacks=[HoldConstraints()])
    >>> round(float(keras.ops.norm(layer.kernel)), 6)
    0.5
    """

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Applies the constraints."""
        for variable in self.model.trainable_variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
