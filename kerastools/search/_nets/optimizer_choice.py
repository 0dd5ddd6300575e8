"""An optimizer whose kind and numbers are searched."""

from typing import Any

import keras_tuner

from kerastools.optimizers import SGD, Adam
from kerastools.search._spaces import betas, learning_rate, momentum


def choose_optimizer(hp: keras_tuner.HyperParameters, clipnorm: float | None = None) -> Any:
    """Returns Nesterov's SGD or Adam: `optimizer`, its learning rate, γ or β₁ and β₂."""
    kind = hp.Choice("optimizer", ["sgd", "adam"])
    # Both scopes are always entered, so that a search knows the whole space from its first trial.
    with hp.conditional_scope("optimizer", ["sgd"]):
        sgd_rate = learning_rate(hp, 1e-3, 0.3, name="sgd_learning_rate")
        gamma = momentum(hp)
    with hp.conditional_scope("optimizer", ["adam"]):
        adam_rate = learning_rate(hp, 1e-4, 3e-2, name="adam_learning_rate")
        beta_1, beta_2 = betas(hp)
    if kind == "sgd":
        return SGD(sgd_rate, momentum=gamma, nesterov=True, clipnorm=clipnorm)
    return Adam(adam_rate, beta_1=beta_1, beta_2=beta_2, clipnorm=clipnorm)
