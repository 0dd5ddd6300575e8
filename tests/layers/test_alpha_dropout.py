import numpy as np
import pytest
from keras import ops

from kerastools.layers import AlphaDropout

FLOOR = -1.0507009873554805 * 1.6732632423543772


def dropped(layer, x):
    return ops.convert_to_numpy(layer(x, training=True)).astype("float64")


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.7])
def test_mean_and_variance_of_normal_inputs_stay(rate):
    x = np.random.default_rng(1).normal(size=(400, 500)).astype("float32")
    y = dropped(AlphaDropout(rate, seed=1), x)
    assert y.mean() == pytest.approx(0, abs=0.01)
    assert y.var() == pytest.approx(1, abs=0.02)


def test_kept_and_dropped_units_are_those_of_the_paper():
    p = 0.25
    y = dropped(AlphaDropout(p, seed=1), np.full((50, 40), 0.5, "float32"))
    a = ((1 - p) * (1 + p * FLOOR**2)) ** -0.5
    b = -a * p * FLOOR
    np.testing.assert_allclose(np.unique(y), [a * FLOOR + b, a * 0.5 + b], rtol=1e-5)


def test_the_rate_is_live_from_nothing_to_everything():
    layer = AlphaDropout(0.0, seed=1)
    x = np.random.default_rng(1).normal(size=(5, 50)).astype("float32")
    np.testing.assert_array_equal(dropped(layer, x), x)
    layer.rate = 1.0
    np.testing.assert_allclose(dropped(layer, x), 0.0, atol=1e-3)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x)


def test_noise_shape_is_kept():
    layer = AlphaDropout(0.5, noise_shape=(None, 1, None), seed=2)
    y = dropped(layer, np.ones((8, 6, 50), "float32"))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
