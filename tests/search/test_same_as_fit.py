"""Scores of a search are those of `fit`, whatever the builder does."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from kerastools.layers import Dropout
from kerastools.optimizers import SGD, Adam
from kerastools.search import PopulationTuner, tune

rng = np.random.default_rng(0)
X = rng.normal(size=(28, 5)).astype("float32")
Y = rng.normal(size=(28, 1)).astype("float32")
FIT = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}
GLOBAL = {"weight": 1.0}


def net(hp, *middle, optimizer=None, loss="mse"):
    model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "tanh"), *middle, kl.Dense(1)])
    model.compile(optimizer or Adam(hp.Float("lr", 1e-3, 1e-2)), loss)
    return model


def closure(hp):
    factor = hp.Float("factor", 0.1, 3.0)

    class Scale(kl.Layer):
        def call(self, x):
            return x * factor

    return net(hp, Scale(name="scale"))


class Scale(kl.Layer):
    factor = 1.0

    def call(self, x):
        return x * self.factor


def class_attribute(hp):
    Scale.factor = hp.Float("factor", 0.1, 3.0)
    return net(hp, Scale(name="scale"))


def weighted(y_true, y_pred):
    return sum(GLOBAL["weight"] * part for part in [keras.ops.mean((y_true - y_pred) ** 2, -1)])


def global_dict(hp):
    GLOBAL["weight"] = hp.Float("factor", 0.1, 3.0)
    return net(hp, loss=weighted)


def excluded(hp):
    optimizer = SGD(hp.Float("lr", 0.01, 0.05), weight_decay=0.5)
    if hp.Boolean("exclude"):
        optimizer.exclude_from_weight_decay(var_names=["kernel"])
    return net(hp, optimizer=optimizer)


def spectral(hp):
    return net(hp, kl.SpectralNormalization(kl.Dense(4)))


class Custom(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


def custom_train_step(hp):
    inputs = keras.Input((5,))
    model = Custom(inputs, kl.Dense(1)(kl.Dense(6, "tanh")(inputs)))
    model.compile(Adam(hp.Float("lr", 1e-3, 1e-2)), "mse")
    return model


BUILDERS = [
    closure,
    class_attribute,
    global_dict,
    excluded,
    spectral,
    custom_train_step,
]


def assert_same_as_fit(tuner, build, x, y, **validation):
    for trial in tuner.oracle.trials.values():
        keras.utils.set_random_seed(tuner._trial_seed(trial, 0))
        plain = build(trial.hyperparameters)
        plain.run_eagerly = True  # Four steps are faster than tracing them.
        history = plain.fit(x, y, **(validation or {"validation_data": (x, y)}), **FIT).history
        assert trial.score == pytest.approx(min(history["val_loss"]), rel=1e-4)


@pytest.mark.filterwarnings("ignore::kerastools.KerastoolsNotice")
@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_a_population_scores_as_fit_does(build, tmp_path):
    tuner = PopulationTuner(
        build, "val_loss", max_trials=2, population=2, seed=1, directory=tmp_path
    )
    tuner.search(X, Y, validation_data=(X, Y), **FIT)
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}
    assert_same_as_fit(tuner, build, X, Y)


def test_trials_with_a_validation_split_are_trained_together_and_score_as_fit_does(tmp_path):
    def build(hp):
        return net(hp, Dropout(hp.Float("rate", 0.1, 0.5)))

    tuner = PopulationTuner(
        build, "val_loss", max_trials=2, population=2, seed=1, directory=tmp_path
    )
    tuner.search(X, Y, validation_split=0.3, **FIT)
    assert all("together" in how for how in tuner.how_trained.values())
    assert_same_as_fit(tuner, build, X, Y, validation_split=0.3)


@pytest.mark.filterwarnings("ignore:PopulationTuner compiles a model for every trial")
def test_one_trial_after_the_other_scores_as_fit_does(tmp_path):
    tuner = PopulationTuner(
        global_dict, "val_loss", max_trials=2, population=1, seed=1, directory=tmp_path
    )
    tuner.search(X, Y, validation_data=(X, Y), **FIT)
    assert_same_as_fit(tuner, global_dict, X, Y)


def test_a_loss_that_ignores_a_class_is_scored_as_fit_does(tmp_path):
    def build(hp):
        model = keras.Sequential([keras.Input((6, 5)), kl.Dense(5, "relu"), kl.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
        model.compile(Adam(hp.Float("lr", 1e-3, 1e-2)), loss)
        return model

    x = rng.normal(size=(28, 6, 5)).astype("float32")
    y = rng.integers(0, 3, (28, 6))
    tuner = PopulationTuner(
        build, "val_loss", max_trials=2, population=2, seed=3, directory=tmp_path
    )
    tuner.search(x, y, validation_data=(x, y), **FIT)
    assert_same_as_fit(tuner, build, x, y)


@pytest.mark.filterwarnings("ignore:Trials are trained one after the other")
def test_tune_holds_out_sample_weights_with_their_rows():
    model = keras.Sequential([keras.Input((5,)), kl.Dense(1)])
    model.compile(SGD(0.01), "mse")
    weight = np.r_[np.ones(14), np.zeros(14)]
    report = tune(model, X, Y, max_trials=2, epochs=1, verbose=0, sample_weight=weight)
    assert [trial.status for trial in report.trials] == ["COMPLETED"] * 2
