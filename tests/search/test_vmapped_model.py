"""A population on JAX: each member is what it would be alone, whatever layers it has."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from kerastools.constraints import MaxNorm
from kerastools.layers import Dropout
from kerastools.optimizers import SGD, Adam
from kerastools.search import PopulationTuner
from kerastools.search._reuse.model_cache import state_of
from tests.search.stacked import weights_of

if keras.backend.backend() != "jax":
    pytest.skip("JAX's; TensorFlow's is in test_stacked_model.py", allow_module_level=True)

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = ((DIGITS - DIGITS.mean()) / DIGITS.std()).astype("float32")
DATA = (DIGITS[:1024], LABELS[:1024])
VALIDATION = (DIGITS[1024:1280], LABELS[1024:1280])
# A last partial batch of 5 rows, and validation rows that are no multiple of anything.
RAGGED = (DIGITS[:1029], LABELS[:1029]), (DIGITS[1029:1430], LABELS[1029:1430])


def dense(x):
    x = keras.layers.Dense(40, kernel_regularizer="l2", kernel_constraint=MaxNorm(1.5))(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.layers.ELU()(x)


def mixed(x):
    """Each kind of layer once: JAX compiles for long."""
    x = keras.layers.Reshape((8, 8, 1))(x)
    x = keras.layers.Conv2D(6, 3, strides=2, activation="tanh")(x)
    x = keras.layers.Reshape((9, 6))(x)
    x = keras.layers.LayerNormalization()(x + keras.layers.MultiHeadAttention(1, 4)(x, x))
    return keras.layers.SimpleRNN(12)(x)


def rest(x):
    x = keras.layers.Reshape((8, 8, 1))(x)
    x = keras.layers.SeparableConv2D(3, 3, strides=2)(keras.layers.DepthwiseConv2D(3)(x))
    x = keras.layers.Conv1D(4, 2)(keras.layers.Reshape((4, 3))(keras.layers.PReLU()(x)))
    x = keras.layers.LSTM(5)(keras.layers.GRU(4, return_sequences=True)(x))
    return keras.layers.Flatten()(keras.layers.Embedding(9, 3)(keras.ops.floor(4 * x)))


BODIES = {"dense": dense, "mixed": mixed, "rest": rest}


def build(k, body="dense", learning_rate=None):
    """A model whose weights, seeds and live numbers are those of member `k`."""
    keras.utils.set_random_seed(100 + k)
    inputs = keras.Input((64,))
    x = Dropout(0.1 * k, seed=k)(BODIES[body](inputs))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    rate = 1e-3 * (k + 1) if learning_rate is None else learning_rate
    optimizer = Adam(rate, 0.8 + 0.05 * k, 0.99, 1e-3, weight_decay=0.01 * k, clipnorm=0.5 + k)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def stack(models, size):
    from kerastools.search._stacked.vmapped_model import VmappedModel

    stacked = VmappedModel(models[0], size)
    stacked.load(dict(enumerate(models)))
    return stacked


def train(stacked, epochs=1, data=DATA):
    for _ in range(epochs):
        logs = stacked.train(*data, 64, np.arange(len(data[0])))
    return logs


@pytest.mark.parametrize("body", BODIES)
def test_each_member_equals_its_model_trained_alone_by_keras(body):
    """Dropout included: each draws the masks that it would draw alone. Four epochs of digits."""
    data, validation = RAGGED if body == "dense" else (DATA, VALIDATION)
    stacked = stack([build(k, body) for k in range(3)], size=4)
    logs = train(stacked, 4, data)[2]
    logs |= stacked.evaluate(*validation, 64)[2]
    stacked.keep_best(np.array([False, False, True, False]))
    alone = build(2, body)
    history = alone.fit(
        *data, validation_data=validation, batch_size=64, epochs=4, shuffle=False, verbose=0
    ).history
    for mine, own in zip(weights_of(stacked, 2), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, own, rtol=0, atol=1e-4)
    for name, values in history.items():
        assert logs[name] == pytest.approx(values[-1], abs=2e-4), name
    for mine, own in zip(stacked.best_state(2), state_of(alone), strict=True):
        np.testing.assert_allclose(mine, keras.ops.convert_to_numpy(own), rtol=0, atol=1e-4)


def test_a_place_that_is_given_to_another_begins_anew_beside_neighbours_that_go_on():
    """Statistics, slots, step count and seeds: whose place it was is not to be seen."""
    refilled, ahead, fresh = (stack([build(1)], 2) for _ in range(3))
    refilled.load({1: build(0, learning_rate=float(np.finfo("float32").max))})
    fresh.load({1: build(2)})
    diverged = train(refilled)
    assert np.isnan(diverged[1]["loss"])
    assert np.isfinite(diverged[0]["loss"])
    refilled.load({1: build(2)})
    train(refilled)
    train(ahead, 2)
    train(fresh)
    for mine, own in (
        (weights_of(refilled, 1), weights_of(fresh, 1)),
        (weights_of(refilled, 0), weights_of(ahead, 0)),
    ):
        for a, b in zip(mine, own, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_best_epoch_is_kept_of_those_who_had_it():
    stacked = stack([build(0), build(1)], 2)
    train(stacked)
    stacked.keep_best(np.array([True, True]))
    first = stacked.best_state(0)
    train(stacked)
    stacked.keep_best(np.array([False, True]))
    for a, b in zip(stacked.best_state(0), first, strict=True):
        np.testing.assert_array_equal(a, b)
    best = stacked.best_state(1)[: len(stacked.template.variables)]
    now = dict(zip(map(id, stacked.template.weights), weights_of(stacked, 1), strict=True))
    for variable, value in zip(stacked.template.variables, best, strict=True):
        np.testing.assert_array_equal(value, now.get(id(variable), value))


def test_a_search_trains_its_trials_together(tmp_path):
    def model(hp):
        hidden = keras.layers.Dense(16, "relu")
        dropped = Dropout(hp.Float("dropout", 0.1, 0.5))
        head = keras.layers.Dense(10, "softmax")
        model = keras.Sequential([keras.Input((64,)), hidden, dropped, head])
        rate = hp.Float("learning_rate", 0.01, 0.3, sampling="log")
        model.compile(SGD(rate, 0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    tuner = PopulationTuner(
        model, "val_accuracy", max_trials=6, population=3, seed=1, directory=tmp_path
    )
    tuner.search(*DATA, validation_data=VALIDATION, epochs=3, batch_size=64, verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert [trial.status for trial in trials] == ["COMPLETED"] * 6
    assert sum("one of 3 trained together" in way for way in tuner.how_trained.values()) == 6
    best = tuner.get_best_models()[0]
    (trial,) = tuner.oracle.get_best_trials(1)
    accuracy = best.evaluate(*VALIDATION, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(trial.score, abs=1e-6)
    assert accuracy > 0.7


class FromOutside(keras.layers.Layer):
    """Subtracts what Python works out for one batch after another: that cannot be vectorised."""

    def call(self, x):
        import jax

        still, number = keras.ops.stop_gradient(x), jax.ShapeDtypeStruct((), "float32")
        mean = jax.experimental.io_callback(
            lambda v: np.float32(np.mean(v)), number, still, ordered=True
        )
        return x - keras.ops.stop_gradient(mean)


def test_what_jax_cannot_vectorise_is_trained_one_after_the_other(tmp_path):
    def search(hp):
        inputs = keras.Input((64,))
        outputs = FromOutside()(keras.layers.Dense(10)(inputs))
        model = keras.Model(inputs, keras.layers.Softmax()(outputs))
        model.compile(SGD(hp.Float("rate", 1e-3, 1e-1)), "sparse_categorical_crossentropy")
        return model

    tuner = PopulationTuner(search, "val_loss", max_trials=3, population=2, directory=tmp_path)
    with pytest.warns(UserWarning, match="one after the other: training together failed"):
        tuner.search(*DATA, validation_data=VALIDATION, epochs=2, verbose=0)
    assert [t.status for t in tuner.oracle.trials.values()] == ["COMPLETED"] * 3
    assert all("training together failed" in way for way in tuner.how_trained.values())
