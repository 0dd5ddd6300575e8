"""What the hypermodels share: head, initialization, optimizer, compile."""

from typing import Any

import keras
import keras_tuner

from kerastools.calibration import initialize
from kerastools.optimizers import SGD, Adam
from kerastools.search._spaces import betas, learning_rate, momentum


def classifier(
    hp: keras_tuner.HyperParameters,
    layers: list[Any],
    num_classes: int,
    name: str,
    seed: int | None,
    clipnorm: float | None = None,
) -> keras.Model:
    """Returns a compiled model: `layers`, softmax head, weights seeded by `seed`."""
    head = keras.layers.Dense(num_classes, activation="softmax", name="head")
    # All at once: each Sequential.add() calls all layers before it.
    model = keras.Sequential([*layers, head], name=name)
    initialize(model, seed=seed)
    model.compile(
        choose_optimizer(hp, clipnorm), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def require_positive(net: Any, *names: str) -> None:
    """Raises unless these attributes are positive numbers, or tuples of some."""
    for name in names:
        if not min(keras.tree.flatten(getattr(net, name)), default=0) > 0:
            raise ValueError(
                f"{type(net).__name__} needs {name} > 0. Received {name}={getattr(net, name)}."
            )


def choose_optimizer(hp: keras_tuner.HyperParameters, clipnorm: float | None = None) -> Any:
    """Search space of the optimizer, SGD with Nesterov momentum or Adam, and its settings."""
    kind = hp.Choice("optimizer", ["sgd", "adam"])
    # Both scopes are always entered, so that the first trial defines the whole space.
    with hp.conditional_scope("optimizer", ["sgd"]):
        sgd_rate = learning_rate(hp, 1e-3, 0.3, name="sgd_learning_rate")
        gamma = momentum(hp)
    with hp.conditional_scope("optimizer", ["adam"]):
        adam_rate = learning_rate(hp, 1e-4, 3e-2, name="adam_learning_rate")
        beta_1, beta_2 = betas(hp)
    if kind == "sgd":
        return SGD(sgd_rate, momentum=gamma, nesterov=True, clipnorm=clipnorm)
    return Adam(adam_rate, beta_1=beta_1, beta_2=beta_2, clipnorm=clipnorm)
