import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.constraints import for_layer

pytestmark = pytest.mark.tensorflow  # Which axes; test_max_norm.py runs on every backend.

# (layer, input shape, the axes that one output value sums over in each kernel, read off Keras's
# documentation of how the kernel is stored).
KINDS = {
    "Dense": (layers.Dense(5), (6,), {"kernel": (0,)}),
    "Conv1D": (layers.Conv1D(5, 3), (9, 4), {"kernel": (0, 1)}),
    "Conv2D grouped": (layers.Conv2D(6, 3, groups=2), (9, 9, 4), {"kernel": (0, 1, 2)}),
    "Conv3D": (layers.Conv3D(5, 2), (4, 4, 4, 3), {"kernel": (0, 1, 2, 3)}),
    "DepthwiseConv1D": (layers.DepthwiseConv1D(3), (9, 4), {"kernel": (0,)}),
    "DepthwiseConv2D": (
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        (9, 9, 4),
        {"kernel": (0, 1)},
    ),
    "SeparableConv2D": (
        layers.SeparableConv2D(5, 3),
        (9, 9, 4),
        {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)},
    ),
    "Conv1DTranspose": (layers.Conv1DTranspose(5, 3), (9, 4), {"kernel": (0, 2)}),
    "Conv2DTranspose": (
        layers.Conv2DTranspose(5, 3, strides=2),
        (9, 9, 4),
        {"kernel": (0, 1, 3)},
    ),
    "SimpleRNN": (layers.SimpleRNNCell(5), (4,), {"kernel": (0,), "recurrent_kernel": (0,)}),
    "whole GRU": (layers.GRU(5), None, {"kernel": (0,), "recurrent_kernel": (0,)}),
    "LSTM": (layers.LSTMCell(5), (4,), {"kernel": (0,), "recurrent_kernel": (0,)}),
    "GRU": (layers.GRUCell(5), (4,), {"kernel": (0,), "recurrent_kernel": (0,)}),
    "ConvLSTM2D": (
        layers.ConvLSTM2D(3, 3),
        None,
        {"kernel": (0, 1, 2), "recurrent_kernel": (0, 1, 2)},
    ),
    "query projection": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 5)),
        (7, 4),
        {"kernel": (0,)},
    ),
    "output projection": (
        layers.EinsumDense("abcd,cde->abe", (None, 5)),
        (7, 2, 4),
        {"kernel": (0, 1)},
    ),
    "experts": (layers.EinsumDense("abc,bcd->abd", (3, 5)), (3, 4), {"kernel": (1,)}),
    "Embedding": (layers.Embedding(9, 4), (3,), {"embeddings": (1,)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_axes_are_those_that_one_unit_sums_over(kind):
    layer, _, expected = KINDS[kind]
    assert {name: c.axis for name, c in for_layer(layer).items()} == expected


@pytest.mark.parametrize("kind", [k for k, (_, shape, _) in KINDS.items() if shape])
def test_no_units_incoming_weights_are_longer_than_allowed(kind):
    layer, shape, expected = KINDS[kind]
    if not layer.built:
        layer.build((None, *shape))
    for name, constraint in for_layer(layer, 1.5).items():
        variable = getattr(layer, name)
        drawn = np.random.default_rng(1).normal(size=tuple(variable.shape))
        w = (3 * np.sign(drawn) * (1 + abs(drawn))).astype("float32")
        once = ops.convert_to_numpy(constraint(w))
        norms = np.sqrt((once.astype("float64") ** 2).sum(axis=expected[name]))
        np.testing.assert_allclose(norms, 1.5, rtol=1e-6)
        many = once
        for _ in range(100):
            many = ops.convert_to_numpy(constraint(many))
        np.testing.assert_array_equal(many, once)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.DepthwiseConv2D(3),
        lambda: layers.Conv2DTranspose(4, 3, strides=2),
        lambda: layers.Conv2D(4, 3),
    ],
    ids=["DepthwiseConv2D", "Conv2DTranspose", "Conv2D"],
)
def test_the_bound_holds_in_training(make):
    layer = make()
    constraint = for_layer(layer, 0.5)["kernel"]
    name = "depthwise_constraint" if hasattr(layer, "depthwise_constraint") else "kernel_constraint"
    setattr(layer, name, constraint)
    model = keras.Sequential([keras.Input((6, 6, 4)), layer, layers.Flatten(), layers.Dense(2)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(16, 6, 6, 4)).astype("float32"), rng.normal(size=(16, 2)) * 10
    model.fit(x, y.astype("float32"), epochs=2, verbose=0)
    w = ops.convert_to_numpy(layer.kernel).astype("float64")
    norms = np.sqrt((w**2).sum(axis=constraint.axis))
    assert norms.max() <= 0.5 * (1 + 1e-6)
    assert norms.max() > 0.4


def test_layers_without_kernels_and_wrong_arguments():
    assert for_layer(layers.ReLU()) == {}
    with pytest.raises(TypeError, match="Keras layer"):
        for_layer("dense")
    with pytest.raises(ValueError, match="max_value"):
        for_layer(layers.Dense(2), 0.0)
