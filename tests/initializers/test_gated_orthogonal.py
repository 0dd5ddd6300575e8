import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.initializers import GatedOrthogonal


def draw(shape, dtype="float32", **arguments):
    return ops.convert_to_numpy(GatedOrthogonal(**arguments)(shape, dtype=dtype))


@pytest.mark.parametrize("gates", [1, 3, 4], ids=["SimpleRNN", "GRU", "LSTM"])
def test_every_gate_is_orthogonal(gates):
    kernel = draw((24, 24 * gates), seed=1)
    for gate in np.split(kernel.astype("float64"), gates, axis=1):
        np.testing.assert_allclose(np.linalg.svd(gate, compute_uv=False), 1, atol=1e-5)
        np.testing.assert_allclose(gate.T @ gate, np.eye(24), atol=1e-5)


def test_gates_differ_and_keras_shrinks_them():
    ours = np.split(draw((24, 96), seed=1), 4, axis=1)
    assert not any(np.allclose(a, b) for i, a in enumerate(ours) for b in ours[:i])
    kernel = ops.convert_to_numpy(keras.initializers.Orthogonal(seed=1)((24, 96)))
    for gate in np.split(kernel, 4, axis=1):
        values = np.linalg.svd(gate, compute_uv=False)
        assert np.sqrt(np.mean(values**2)) == pytest.approx(0.5, abs=0.1)


def test_kernels_of_other_shapes_have_orthonormal_columns_or_rows():
    kernel = draw((3, 3, 4, 16), seed=1)  # ConvLSTM2D: 4 gates of 4 filters
    for gate in np.split(kernel.reshape(36, 16), 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(4), atol=1e-5)
    wide = draw((4, 12), seed=1, gates=2)
    for gate in np.split(wide, 2, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(4), atol=1e-5)


def test_the_gain_scales_each_gate():
    gate = draw((8, 32), seed=1, gain=0.5)[:, :8]
    np.testing.assert_allclose(np.linalg.svd(gate, compute_uv=False), 0.5, atol=1e-5)


def test_seeds_work_as_in_variance_scaling():
    np.testing.assert_array_equal(draw((4, 16), seed=1), draw((4, 16), seed=1))
    shared = GatedOrthogonal()
    a, b = (ops.convert_to_numpy(shared((4, 16))) for _ in range(2))
    assert (a != b).any()


def gradient_to_the_first_step(initializer, units, steps):
    """Returns ‖∂L/∂x₀‖ of an LSTM, by central differences of the loss in float32."""
    keras.utils.set_random_seed(3)
    layer = layers.LSTM(units, recurrent_initializer=initializer)
    x = np.random.default_rng(1).normal(size=(1, steps, units)).astype("float32")
    layer(x)
    return jacobian_norm(layer, x)


def jacobian_norm(layer, x):
    """Returns ‖∂(Σ h_T)/∂x₀‖ worked out in NumPy float64, by the chain rule through all steps."""
    kernel, recurrent, bias = (w.astype("float64") for w in layer.get_weights())
    units = recurrent.shape[0]

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h, c = np.zeros(units), np.zeros(units)
    dh = dc = None
    for t, x_t in enumerate(x[0].astype("float64")):
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent + bias, 4)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        new_c = f * c + i * g
        new_h = o * np.tanh(new_c)
        w = np.split(kernel if t == 0 else recurrent, 4, axis=1)
        # Rows: by which input of step 0; columns: units.
        back = [m if t == 0 else dh @ m for m in w]
        slopes = [i * (1 - i) * g, f * (1 - f) * c, i * (1 - g**2)]
        inner = back[0] * slopes[0] + back[1] * slopes[1] + back[2] * slopes[2]
        dc = inner if t == 0 else dc * f + inner
        dh = back[3] * (o * (1 - o) * np.tanh(new_c)) + dc * (o * (1 - np.tanh(new_c) ** 2))
        h, c = new_h, new_c
    np.testing.assert_allclose(h, ops.convert_to_numpy(layer(x))[0], atol=1e-4)
    return np.linalg.norm(dh.sum(axis=1))


def test_the_gradient_reaches_the_first_of_100_steps():
    ours = gradient_to_the_first_step(GatedOrthogonal(seed=1), 64, 100)
    kerass = gradient_to_the_first_step(keras.initializers.Orthogonal(seed=1), 64, 100)
    assert ours > 1000 * kerass


def test_bad_shapes_and_arguments_are_refused():
    with pytest.raises(ValueError, match="Zeros"):
        GatedOrthogonal()((8,))
    with pytest.raises(ValueError, match="gates=4"):
        GatedOrthogonal(gates=4)((8, 30))
    with pytest.raises(ValueError, match="at least 1"):
        GatedOrthogonal(gates=0)
