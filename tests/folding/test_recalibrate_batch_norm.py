"""The statistics are compared with NumPy's on the activations themselves."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastools.folding import fold_batch_norm, recalibrate_batch_norm
from tests.folding.networks import ON_ONE_BACKEND, assert_same, network, randomise


def rows(n, *shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, size=(n, *shape)).astype("float32")


def numbers(variable):
    return keras.ops.convert_to_numpy(variable)


def test_statistics_are_those_of_all_rows_not_of_the_last_batch():
    model = network((4,), layers.Dense(3, activation="relu"), layers.BatchNormalization())
    x = rows(40, 4)
    weights = [v.copy() for v in model.layers[0].get_weights()]
    assert recalibrate_batch_norm(model, x, batch_size=8) is model
    hidden = numbers(model.layers[0](x)).astype("float64")
    norm = model.layers[1]
    np.testing.assert_allclose(numbers(norm.moving_mean), hidden.mean(0), rtol=1e-5)
    np.testing.assert_allclose(numbers(norm.moving_variance), hidden.var(0), rtol=1e-4)
    for a, b in zip(weights, model.layers[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert norm.momentum == 0.99


def test_in_one_batch_every_layer_sees_the_statistics_of_those_below():
    """So the network in inference then gives what it gives in training on these rows."""
    model = network(
        (6, 6, 2),
        layers.Conv2D(3, 3),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(),
    )
    x = rows(16, 6, 6, 2)
    want = numbers(model(x, training=True))
    recalibrate_batch_norm(model, x)
    got = numbers(model(x, training=False))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@ON_ONE_BACKEND
def test_a_last_batch_that_is_not_full_is_left_out():
    x = rows(19, 4)
    full, whole = (
        recalibrate_batch_norm(network((4,), layers.BatchNormalization()), data, batch_size=8)
        for data in (x[:16], x)
    )
    for a, b in zip(full.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@ON_ONE_BACKEND
def test_dropout_and_augmentation_are_off():
    noise = layers.RandomBrightness(1.0, value_range=(-99, 99))
    model = network((4, 4, 3), noise, layers.Dropout(0.9), layers.BatchNormalization())
    x = rows(32, 4, 4, 3)
    recalibrate_batch_norm(model, x)
    np.testing.assert_allclose(model.layers[-1].moving_mean, x.mean((0, 1, 2)), rtol=1e-5)


@ON_ONE_BACKEND
def test_frozen_and_nested_and_shared_layers():
    inner = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="inner")])
    frozen = layers.BatchNormalization(name="frozen", trainable=False)
    shared = layers.BatchNormalization(name="shared")
    a, b = keras.Input((4,)), keras.Input((4,))
    outs = [
        inner(a),
        frozen(a),
        shared(a),
        shared(b),
        layers.BatchNormalization()(a, training=False),
    ]
    model = randomise(keras.Model([a, b], outs))
    before = numbers(frozen.moving_mean)
    x, y = rows(16, 4), rows(16, 4, seed=1)
    recalibrate_batch_norm(model, [x, y])
    both = np.concatenate([x, y]).astype("float64")
    np.testing.assert_allclose(inner.layers[0].moving_mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(shared.moving_mean, both.mean(0), rtol=1e-5)
    np.testing.assert_allclose(shared.moving_variance, both.var(0), rtol=1e-5)
    np.testing.assert_array_equal(frozen.moving_mean, before)


@ON_ONE_BACKEND
def test_masked_steps_do_not_count():
    x = rows(16, 5, 3)
    x[:, 3:] = 0.0
    model = network((5, 3), layers.Masking(), layers.BatchNormalization())
    recalibrate_batch_norm(model, x)
    seen = x[:, :3].astype("float64")
    np.testing.assert_allclose(model.layers[1].moving_mean, seen.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(model.layers[1].moving_variance, seen.var((0, 1)), rtol=1e-5)


@ON_ONE_BACKEND
def test_mends_a_model_whose_weights_moved_on_and_folds_after_it():
    model = network((4,), layers.Dense(3), layers.BatchNormalization(), layers.Dense(1))
    x = rows(64, 4)
    recalibrate_batch_norm(model, x)
    want = numbers(model(x, training=True))
    model.layers[0].kernel.assign(model.layers[0].kernel * 5.0)
    off = np.abs(numbers(model(x)) - want).max()
    recalibrate_batch_norm(model, x)
    assert np.abs(numbers(model(x)) - want).max() < 0.01 * off
    assert_same(model, fold_batch_norm(model), x=x)


@ON_ONE_BACKEND
def test_an_interrupt_leaves_the_model_as_it_was():
    class Interrupts(layers.Layer):
        def call(self, x):
            if not isinstance(x, keras.KerasTensor) and self.armed:
                raise KeyboardInterrupt
            return x

    layer = Interrupts()
    layer.armed = False
    model = network((4,), layers.BatchNormalization(), layer)
    layer.armed = True
    before = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        recalibrate_batch_norm(model, rows(8, 4))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.layers[0].momentum == 0.99


@ON_ONE_BACKEND
@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.ones((5, 3)), {}, r"of shapes \[\(None, 4\)"),
        (np.ones((0, 4)), {}, "at least one row"),
        (np.full((5, 4), np.nan), {}, "finite numbers"),
        ((np.ones((5, 4)), np.ones(5)), {}, "without labels"),
        (np.ones((5, 4)), {"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(data, options, message):
    model = network((4,), layers.BatchNormalization())
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        recalibrate_batch_norm(model, data, **options)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@ON_ONE_BACKEND
def test_different_numbers_of_rows_are_refused():
    a, b = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([a, b], layers.BatchNormalization()(layers.Add()([a, b])))
    with pytest.raises(ValueError, match="as many rows"):
        recalibrate_batch_norm(model, [rows(3, 4), rows(4, 4)])
