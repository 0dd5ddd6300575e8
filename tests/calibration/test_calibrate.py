import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools._core.graph.calls import as_recorded, read_graph, replay
from kerastools.calibration import calibrate, initialize


def rows(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def variances(model, x):
    """Returns the variance of each call's output in training, by layer."""
    found = {}

    def keep(call, args, kwargs):
        outputs = as_recorded(call, args, kwargs)
        first = ops.convert_to_numpy(keras.tree.flatten(outputs)[0]).astype("float64")
        found[call.path] = float(np.var(first))
        return outputs

    with keras.StatelessScope():
        replay(read_graph(model, "test"), x, keep, training=True)
    return found


def numbers(model):
    return [ops.convert_to_numpy(v).copy() for v in model.variables]


@pytest.mark.filterwarnings("ignore:.*has no stable gain:UserWarning")
def test_fifty_layers_without_a_stable_gain_get_variance_one():
    stack = [keras.Input((64,))]
    for i in range(50):
        stack += [layers.Dense(64, name=f"dense_{i}"), layers.Activation("silu")]
    model = keras.Sequential([*stack, layers.Dense(10, name="output")])
    x = rows(256, 64)
    before = variances(initialize(model, seed=1), x)
    assert not 0.5 < before["dense_49"] < 2
    after = variances(calibrate(model, x), x)
    assert all(abs(after[f"dense_{i}"] - 1) <= 0.02 for i in range(50))


def mixed_model():
    a, b = keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="table")
    x = layers.Conv2D(8, 3, activation="relu", bias_initializer="ones", name="conv")(a)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(8, 3, name="separable")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    inner = keras.Sequential([keras.Input((4, 4, 4)), layers.Conv2D(6, 3, name="in")], name="inner")
    x = layers.Reshape((4, 6))(inner(x))
    x = layers.TimeDistributed(layers.Dense(6, name="each"), name="times")(x)
    shared = layers.Dense(6, name="shared", activation="tanh")
    x = layers.LSTM(6)(shared(x))
    y = shared(layers.Dropout(0.2, seed=1)(layers.Dense(6, name="table_dense")(b)))
    return keras.Model([a, b], layers.Dense(2, name="output")(layers.Concatenate()([x, y])))


# One shape of the data in all tests, so that what is compiled for one serves the others.
IMAGES, TABLE = rows(64, 8, 8, 3), rows(64, 5)


@pytest.fixture(scope="module")
def built():
    model = initialize(mixed_model(), seed=1)
    return model, numbers(model)


@pytest.fixture
def model(built):
    """A model with the same weights for each test."""
    model, values = built
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    model.trainable = True
    return model


def test_every_kind_of_layer_in_any_graph_is_calibrated_and_kernels_alone_change(model):
    data = [IMAGES * 20, TABLE * np.float32(0.01)]
    before = numbers(model)
    assert calibrate(model, data) is model
    after = variances(model, data)
    for name in ("separable", "depthwise", "up", "inner/in", "times", "table_dense"):
        assert after[name] == pytest.approx(1, abs=0.0101), name
    conv = model.get_layer("conv")
    z = ops.convert_to_numpy(ops.conv(data[0], conv.kernel, 1, "valid")) + 1.0
    assert np.var(z) == pytest.approx(1, abs=0.0101)
    calibrated = 0
    for variable, a, b in zip(model.variables, before, numbers(model), strict=True):
        path = variable.path
        if "kernel" in path and not any(k in path for k in ("lstm", "output", "depthwise_kernel")):
            ratio = b / a
            np.testing.assert_allclose(ratio, ratio.ravel()[0], rtol=1e-4)
            calibrated += abs(ratio.ravel()[0] - 1) > 0.02
        else:
            np.testing.assert_array_equal(a, b, err_msg=path)
    assert calibrated >= 4


def test_frozen_layers_and_dry_runs_change_nothing(model, capsys):
    data = [IMAGES * 20, TABLE]
    before = numbers(model)
    calibrate(model, data, dry_run=True, verbose=True)
    printed = capsys.readouterr().out
    assert "variance before" in printed
    assert "inner/in" in printed
    for a, b in zip(before, numbers(model), strict=True):
        np.testing.assert_array_equal(a, b)
    model.get_layer("conv").trainable = False
    model.get_layer("inner").trainable = False
    frozen = [v for name in ("conv", "inner") for v in model.get_layer(name).weights]
    values = [ops.convert_to_numpy(v) for v in frozen]
    calibrate(model, data)
    for a, b in zip(values, frozen, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_input_changes_nothing(model):
    data = [IMAGES, TABLE]
    before = numbers(model)
    bad = data[0].copy()
    bad[1, 2, 3, 0] = np.inf
    with pytest.raises(ValueError, match="finite"):
        calibrate(model, [bad, data[1]])
    with pytest.raises(ValueError, match="tolerance"):
        calibrate(model, data, tolerance=0.0)
    with pytest.raises(ValueError, match=r"outputs that vary.*table_dense"):
        calibrate(model, [data[0], np.zeros_like(TABLE)])
    with pytest.raises(ValueError, match="built"):
        calibrate(keras.Sequential([layers.Dense(2)]), data[1])
    for a, b in zip(before, numbers(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.get_layer("conv").activation is keras.activations.relu
