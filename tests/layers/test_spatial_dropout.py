import numpy as np
import pytest
from keras import ops

from kerastools.layers import SpatialDropout

SHAPES = {"1D": (6, 5, 80), "2D": (6, 3, 4, 80), "3D": (6, 2, 3, 2, 80)}


def dropped(layer, x):
    return ops.convert_to_numpy(layer(x, training=True))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_whole_channels_are_dropped_and_the_rest_scaled(kind, data_format):
    y = dropped(
        SpatialDropout(0.4, data_format, seed=1),
        np.moveaxis(np.ones(SHAPES[kind], "float32"), -1, 1)
        if data_format == "channels_first"
        else np.ones(SHAPES[kind], "float32"),
    )
    channels = np.moveaxis(y, 1, -1) if data_format == "channels_first" else y
    flat = channels.reshape(channels.shape[0], -1, channels.shape[-1])
    np.testing.assert_array_equal(flat, np.broadcast_to(flat[:, :1], flat.shape))
    assert np.unique(y).tolist() == pytest.approx([0.0, 1 / 0.6])
    assert 0.3 < (flat[:, 0] == 0).mean() < 0.5
    assert len({row.tobytes() for row in flat[:, 0]}) == 6


def test_the_rate_is_live():
    layer = SpatialDropout(0.0, seed=1)
    x = np.ones((4, 3, 200), "float32")
    np.testing.assert_array_equal(dropped(layer, x), x)
    layer.rate = 1.0
    np.testing.assert_array_equal(dropped(layer, x), 0.0)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="rate in"):
        SpatialDropout(1.2)
    with pytest.raises(ValueError, match="channels_last"):
        SpatialDropout(0.2, "NHWC")
