"""The end of every net that is searched over here: head, weights, optimizer."""

from typing import Any

import keras
import keras_tuner

from kerastools.calibration import initialize
from kerastools.search._nets.optimizer_choice import choose_optimizer


def classifier(
    hp: keras_tuner.HyperParameters,
    layers: list[Any],
    num_classes: int,
    name: str,
    seed: int,
    clipnorm: float | None = None,
) -> keras.Model:
    """Returns `layers` with a softmax on top, drawn from `seed` and compiled as `hp` says."""
    head = keras.layers.Dense(num_classes, activation="softmax", name="head")
    # All at once: Sequential.add() runs through all layers before it, each time.
    model = keras.Sequential([*layers, head], name=name)
    initialize(model, seed=seed)
    model.compile(
        choose_optimizer(hp, clipnorm), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model
