import keras
import numpy as np
import pytest
from keras import ops

from kerastools.layers import AlphaDropout, Dropout


class Counter(keras.layers.Layer):
    """Counts how often Python runs its call: once per trace."""

    traces = 0

    def call(self, x):
        Counter.traces += 1
        return x


def share_of_zeros(y_true, y_pred):
    return ops.mean(ops.cast(y_pred == 0, "float32"), axis=-1) + 0.0 * ops.mean(y_pred, axis=-1)


def model_that_reports_zeros(layer):
    model = keras.Sequential(
        [
            keras.Input((1,)),
            Counter(),
            keras.layers.Dense(2000, use_bias=False, kernel_initializer="ones"),
            layer,
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), share_of_zeros)
    return model


class SetRate(keras.callbacks.Callback):
    def __init__(self, layer, rates):
        super().__init__()
        self.layer, self.rates = layer, rates

    def on_epoch_begin(self, epoch, logs=None):
        self.layer.rate = self.rates[epoch]


def test_rate_set_in_the_middle_of_fit_acts_at_once_without_a_new_trace():
    rates = [0.0, 0.5, 0.2, 0.0, 0.9]
    layer = Dropout(0.0, seed=3)
    model = model_that_reports_zeros(layer)
    x = np.ones((64, 1), "float32")
    Counter.traces = 0
    model.fit(x, x, batch_size=16, epochs=1, verbose=0)
    traces = Counter.traces
    history = model.fit(
        x, x, batch_size=16, epochs=5, verbose=0, callbacks=[SetRate(layer, rates)]
    ).history["loss"]
    np.testing.assert_allclose(history, rates, atol=0.01)
    assert Counter.traces == traces


def test_keras_dropout_ignores_a_new_rate():
    layer = keras.layers.Dropout(0.5, seed=3)
    model = model_that_reports_zeros(layer)
    x = np.ones((64, 1), "float32")
    model.fit(x, x, epochs=1, verbose=0)
    history = model.fit(x, x, epochs=1, verbose=0, callbacks=[SetRate(layer, [0.1])]).history
    assert history["loss"][0] > 0.4


def test_kept_units_are_scaled_so_that_the_mean_stays():
    x = np.ones((100, 2000), "float32")
    y = ops.convert_to_numpy(Dropout(0.4, seed=1)(x, training=True))
    assert np.unique(y).tolist() == pytest.approx([0.0, 1 / 0.6])
    assert y.mean() == pytest.approx(1.0, abs=0.01)


def test_inference_is_the_identity():
    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(Dropout(0.9)(x)), x)


def test_rate_one_drops_everything_and_stays_finite():
    y = ops.convert_to_numpy(Dropout(1.0)(np.ones((4, 100), "float32"), training=True))
    np.testing.assert_array_equal(y, 0.0)


def test_noise_shape_drops_a_feature_at_all_time_steps():
    layer = Dropout(0.5, noise_shape=(None, 1, None), seed=2)
    y = ops.convert_to_numpy(layer(np.ones((8, 6, 50), "float32"), training=True))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert 0.3 < (y == 0).mean() < 0.7


@pytest.mark.parametrize("shape", [(None, 1), (None, 3, 8), (None, 2, 1)])
@pytest.mark.parametrize("cls", [Dropout, AlphaDropout])
def test_a_noise_shape_that_does_not_fit_the_inputs_is_refused(cls, shape):
    layer = cls(0.5, noise_shape=shape)
    with pytest.raises(ValueError, match=r"entry for each axis .*inputs of shape \(4, 1, 8\)"):
        layer(np.ones((4, 1, 8), "float32"), training=True)


def test_two_layers_with_one_seed_repeat_each_other_and_without_do_not():
    x = np.ones((1, 200), "float32")

    def draw(seed):
        return ops.convert_to_numpy(Dropout(0.5, seed=seed)(x, training=True))

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(None) != draw(None)).any()


def test_current_rate_is_saved_with_the_model(tmp_path):
    layer = Dropout(0.1)
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.rate = 0.35
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[0].rate == 0.35
    assert Dropout.from_config(layer.get_config()).get_config()["rate"] == 0.35


def test_gradient_passes_only_through_kept_units():
    layer = Dropout(0.5, seed=5)
    x = np.ones((2, 40), "float32")
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(40, use_bias=False), layer])
    model.compile(keras.optimizers.SGD(1.0), lambda t, y: ops.sum(y, axis=-1))
    before = model.get_weights()[0]
    model.train_on_batch(x[:1], x[:1])
    step = before - model.get_weights()[0]
    assert sorted({round(float(s), 4) for s in step[0]}) == [0.0, 2.0]


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_bad_rate_is_refused_and_changes_nothing(rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(rate)
    layer = Dropout(0.25)
    with pytest.raises(ValueError, match="rate in"):
        layer.rate = rate
    assert layer.rate == 0.25
