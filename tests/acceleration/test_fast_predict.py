"""`fast_predict` predicts what `predict` predicts."""

import keras
import numpy as np
import pytest

from kerastools.acceleration import fast_predict


def net():
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(3, activation="softmax"),
    ]
    return keras.Sequential([keras.Input((5,)), *layers])


def rows(num):
    return np.random.default_rng(num).normal(size=(num, 5)).astype("float32")


@pytest.mark.parametrize("num", [1, 2, 7, 64, 130])
def test_equals_predict_for_any_number_of_rows(num):
    model = net()
    predict = fast_predict(model, batch_size=64)
    predictions = predict(rows(num))
    assert isinstance(predictions, np.ndarray)
    assert predictions.shape == (num, 3)
    np.testing.assert_allclose(predictions, model.predict(rows(num), verbose=0), atol=1e-6)


def test_follows_the_weights_while_they_train():
    model = net()
    predict = fast_predict(model)
    before = predict(rows(4))
    model.compile("sgd", "mse")
    model.fit(rows(32), np.ones((32, 3)), verbose=0)
    after = predict(rows(4))
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after, model.predict(rows(4), verbose=0), atol=1e-6)


def test_takes_and_returns_structures_and_lists():
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    total = keras.layers.Add()([a, b])
    model = keras.Model({"a": a, "b": b}, {"sum": total, "twice": 2 * total})
    out = fast_predict(model)({"a": rows(3), "b": rows(3)})
    np.testing.assert_allclose(out["twice"], 4 * rows(3), rtol=1e-6)
    plain = net()
    np.testing.assert_allclose(
        fast_predict(plain)(rows(3).astype("float64")), plain.predict(rows(3), verbose=0), atol=1e-6
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="built model"):
        fast_predict(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(TypeError, match=r"keras\.Model"):
        fast_predict(None)
    with pytest.raises(ValueError, match="positive"):
        fast_predict(net(), batch_size=0)
    with pytest.raises(ValueError, match="at least one row"):
        fast_predict(net())(rows(0))
