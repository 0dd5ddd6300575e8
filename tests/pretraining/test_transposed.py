import keras
import numpy as np
import pytest
from keras import ops

from kerastools.pretraining import Transposed

CASES = {
    "Dense": (keras.layers.Dense(3), (5,), None),
    "Conv1D": (keras.layers.Conv1D(3, 4, strides=2, padding="same"), (8, 2), None),
    "Conv2D same": (keras.layers.Conv2D(4, 3, padding="same"), (5, 6, 2), None),
    "Conv2D valid": (keras.layers.Conv2D(4, 3), (6, 5, 2), None),
    "Conv2D same, strides": (
        keras.layers.Conv2D(4, 3, strides=2, padding="same"),
        (7, 8, 2),
        (0, 1),
    ),
    "Conv2D valid, strides": (keras.layers.Conv2D(4, 3, strides=2), (8, 7, 2), (1, 0)),
    "Conv3D": (keras.layers.Conv3D(3, 2), (4, 4, 4, 2), None),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_adjoint(case):
    """⟨layer(u), x⟩ = ⟨u, transposed(x)⟩ for all u and x."""
    layer, shape, padding = CASES[case]
    rng = np.random.default_rng(1)
    u = rng.normal(size=(2, *shape)).astype("float32")
    forward = ops.convert_to_numpy(layer(u))  # biases are zero
    x = rng.normal(size=forward.shape).astype("float32")
    back = ops.convert_to_numpy(Transposed(layer, use_bias=False, output_padding=padding)(x))
    assert back.shape == u.shape
    # The weights are random: the sum may be small against what it is made of.
    size = np.abs(forward * x).sum()
    np.testing.assert_allclose((forward * x).sum(), (u * back).sum(), rtol=0, atol=1e-6 * size)


def test_kernel_is_shared_and_bias_is_its_own():
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    back = Transposed(dense)
    back.build((None, 2))
    assert len(back.trainable_weights) == 3  # kernel and bias of the other, and b
    assert tuple(back.bias.shape) == (3,)


def test_a_saved_model_stays_tied(tmp_path):
    inputs = keras.Input((5,))
    dense = keras.layers.Dense(2, name="down")
    code = dense(inputs)
    model = keras.Model(inputs, Transposed(dense, "tanh", name="up")(code))
    model.save(tmp_path / "tied.keras")
    loaded = keras.models.load_model(tmp_path / "tied.keras")
    assert loaded.get_layer("up").layer is loaded.get_layer("down")
    x = np.random.default_rng(1).normal(size=(3, 5)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(model(x)))


def test_what_cannot_be_transposed_is_refused():
    with pytest.raises(TypeError, match="needs a Dense, Conv1D"):
        Transposed(keras.layers.Embedding(3, 2))
    with pytest.raises(ValueError, match="needs a built layer"):
        Transposed(keras.layers.Dense(3))
    grouped = keras.layers.Conv2D(4, 3, groups=2)
    grouped.build((None, 8, 8, 2))
    with pytest.raises(ValueError, match="groups=1"):
        Transposed(grouped)
