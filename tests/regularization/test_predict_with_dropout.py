import keras
import numpy as np
import pytest
from keras import layers, ops

import kerastools.layers
from kerastools.regularization import predict_with_dropout


def rows(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def linear_net(dropout):
    return keras.Sequential([keras.Input((30,)), dropout, layers.Dense(2, name="dense")])


@pytest.mark.parametrize("cls", [keras.layers.Dropout, kerastools.layers.Dropout])
def test_mean_and_spread_are_those_of_a_sum_of_bernoulli_draws(cls):
    p = 0.3
    model, x = linear_net(cls(p)), rows(7, 30)
    mean, spread = predict_with_dropout(model, x, num_samples=600, batch_size=4, seed=1)
    w = ops.convert_to_numpy(model.get_layer("dense").kernel)
    exact = np.sqrt((x**2) @ (w**2) * p / (1 - p))
    np.testing.assert_allclose(spread, exact, rtol=0.1)
    np.testing.assert_allclose(mean, model.predict(x, verbose=0), atol=4 * exact.max() / 600**0.5)


def test_a_seed_repeats_the_masks_and_none_does_not():
    model, x = linear_net(kerastools.layers.Dropout(0.5)), rows(3, 30)
    first, again, other = (predict_with_dropout(model, x, 4, seed=s)[0] for s in (1, 1, None))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_only_dropout_works_as_in_training_and_nothing_is_changed():
    inputs = keras.Input((6, 4))
    x = layers.GaussianNoise(0.9, seed=1)(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.LSTM(3, dropout=0.0)(x)
    head = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5, seed=1), layers.Dense(2)])
    model = keras.Model(inputs, {"a": head(x), "b": x})
    data = rows(5, 6, 4)
    before = [ops.convert_to_numpy(v).copy() for v in model.variables]
    mean, spread = predict_with_dropout(model, data, 4, seed=1)
    for v, w in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(v), w)
    np.testing.assert_allclose(mean["b"], model.predict(data, verbose=0)["b"], rtol=1e-5, atol=1e-6)
    assert spread["b"].max() < 1e-7
    assert spread["a"].min() > 0


def test_recurrent_dropout_and_attention_are_switched_on():
    inputs = keras.Input((6, 4))
    x = layers.MultiHeadAttention(2, 2, dropout=0.5)(inputs, inputs)
    model = keras.Model(inputs, [x, layers.LSTM(3, dropout=0.5)(inputs)])
    _, spread = predict_with_dropout(model, rows(5, 6, 4), 8)
    assert all(s.max() > 0.01 for s in spread)


def test_what_cannot_work_is_refused():
    plain = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="without"):
        predict_with_dropout(plain, rows(2, 3))
    model = linear_net(layers.Dropout(0.5))
    with pytest.raises(ValueError, match="num_samples >= 2"):
        predict_with_dropout(model, rows(2, 30), num_samples=1)
    with pytest.raises(ValueError, match="finite"):
        predict_with_dropout(model, np.full((2, 30), np.nan))
