import keras
import numpy as np
from keras import layers, ops

from kerastools.diagnosis._probe.signals import measure


def mean_squared_error(y, prediction):
    return ops.mean(ops.square(y - prediction))


def test_outputs_and_gradients_equal_those_worked_out_by_hand():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(6, 4)).astype("float32"), rng.normal(size=(6, 2)).astype("float32")
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, "tanh", name="a"), layers.Dense(2, name="b")]
    )
    loss, (a, b) = measure(model, x, ops.convert_to_tensor(y), mean_squared_error, "test")
    w1, b1, w2, b2 = (w.astype("float64") for w in model.get_weights())
    hidden = np.tanh(x @ w1 + b1)
    out = hidden @ w2 + b2
    delta = 2 * (out - y) / y.size
    np.testing.assert_allclose(loss, np.mean((out - y) ** 2), rtol=1e-5)
    np.testing.assert_allclose(a.output, hidden, rtol=1e-5)
    np.testing.assert_allclose(b.output, out, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(b.gradients[0], hidden.T @ delta, rtol=1e-4, atol=1e-6)
    first = x.T @ ((delta @ w2.T) * (1 - hidden**2))
    np.testing.assert_allclose(a.gradients[0], first, rtol=1e-4, atol=1e-6)
    assert (a.path, a.is_output, b.path, b.is_output) == ("a", False, "b", True)


def test_the_run_equals_a_call_in_training():
    inputs = keras.Input((6,), name="x")
    inner = keras.Sequential(
        [keras.Input((5,)), layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.3)]
    )
    shared = layers.Dense(5, activation="relu")
    x = inner(shared(inner(layers.Dense(5)(inputs))))
    model = keras.Model(inputs, layers.Dense(2)(shared(x)))
    data = np.random.default_rng(1).normal(size=(16, 6)).astype("float32")
    want = []

    def keep(y, prediction):
        want.append(ops.convert_to_numpy(prediction).tolist() if not want else None)
        return ops.mean(prediction)

    _, records = measure(model, data, None, mean_of_prediction, "test")
    got = records[-1].output
    # The random state stands where it stood, so a real call draws the same masks.
    np.testing.assert_allclose(got, model(data, training=True), rtol=1e-5, atol=1e-6)
    assert len(records) == 1 + 2 * 3 + 2 + 1


def mean_of_prediction(y, prediction):
    return ops.mean(prediction)


def test_masks_reach_the_layers_behind_an_embedding():
    model = keras.Sequential(
        [keras.Input((5,)), layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3), layers.Dense(1)]
    )
    x = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 7]])
    _, records = measure(model, x, None, mean_of_prediction, "test")
    np.testing.assert_allclose(records[-1].output, model(x), rtol=1e-5, atol=1e-6)
