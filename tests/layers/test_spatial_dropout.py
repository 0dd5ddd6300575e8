import numpy as np
import pytest
from keras import ops

from kerastools import layers

SHAPES = {1: (6, 5, 80), 2: (6, 3, 4, 80), 3: (6, 2, 3, 2, 80)}


def dropped(layer, x):
    return ops.convert_to_numpy(layer(x, training=True))


def spatial(rank, *arguments, **keywords):
    return getattr(layers, f"SpatialDropout{rank}D")(*arguments, **keywords)


@pytest.mark.parametrize("rank", SHAPES)
def test_whole_feature_maps_are_dropped_and_the_rest_scaled(rank):
    y = dropped(spatial(rank, 0.4, seed=1), np.ones(SHAPES[rank], "float32"))
    flat = y.reshape(y.shape[0], -1, y.shape[-1])
    np.testing.assert_array_equal(flat, np.broadcast_to(flat[:, :1], flat.shape))
    assert np.unique(y).tolist() == pytest.approx([0.0, 1 / 0.6])
    assert 0.3 < (flat[:, 0] == 0).mean() < 0.5
    assert len({row.tobytes() for row in flat[:, 0]}) == 6


@pytest.mark.parametrize("rank", SHAPES)
def test_rate_is_mutable_from_nothing_to_everything(rank):
    layer = spatial(rank, 0.0, seed=1)
    x = np.ones(SHAPES[rank], "float32")
    np.testing.assert_array_equal(dropped(layer, x), x)
    layer.rate = 1.0
    np.testing.assert_array_equal(dropped(layer, x), 0.0)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        spatial(1, 1.2)
    with pytest.raises(ValueError, match="channels_last"):
        spatial(2, 0.2, "NHWC")


def test_one_layer_for_any_rank_draws_the_masks_of_each():
    for rank, shape in SHAPES.items():
        ranked = getattr(layers, f"SpatialDropout{rank}D")(0.5, seed=3)
        x = np.ones(shape, "float32")
        np.testing.assert_array_equal(
            dropped(layers.SpatialDropout(0.5, seed=3), x), dropped(ranked, x)
        )
