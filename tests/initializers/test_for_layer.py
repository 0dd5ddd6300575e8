import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.initializers import for_layer

pytestmark = pytest.mark.tensorflow  # Counting, the same on every backend.

# (layer, its kernels' shapes, fan_in and fan_out of each), counted by hand: how many inputs one
# output value sums over, how many outputs one input value reaches on average.
FANS = {
    "Dense": (layers.Dense(20), {"kernel": ((30, 20), 30, 20)}),
    "Conv1D": (layers.Conv1D(6, 5), {"kernel": ((5, 8, 6), 40, 30)}),
    "Conv2D": (layers.Conv2D(16, 3), {"kernel": ((3, 3, 8, 16), 72, 144)}),
    "Conv2D strided": (layers.Conv2D(16, 3, strides=2), {"kernel": ((3, 3, 8, 16), 72, 36)}),
    "Conv2D grouped": (layers.Conv2D(16, 3, groups=4), {"kernel": ((3, 3, 2, 16), 18, 36)}),
    "Conv2D dilated": (layers.Conv2D(4, 3, dilation_rate=2), {"kernel": ((3, 3, 8, 4), 72, 36)}),
    "Conv3D": (layers.Conv3D(4, 2), {"kernel": ((2, 2, 2, 3, 4), 24, 32)}),
    "DepthwiseConv1D": (layers.DepthwiseConv1D(5), {"kernel": ((5, 64, 1), 5, 5)}),
    "DepthwiseConv2D": (
        layers.DepthwiseConv2D(3, strides=3, depth_multiplier=2),
        {"kernel": ((3, 3, 64, 2), 9, 2)},
    ),
    "SeparableConv2D": (
        layers.SeparableConv2D(32, 3, depth_multiplier=2),
        {
            "depthwise_kernel": ((3, 3, 64, 2), 9, 18),
            "pointwise_kernel": ((1, 1, 128, 32), 128, 32),
        },
    ),
    "Conv1DTranspose": (layers.Conv1DTranspose(8, 4, strides=2), {"kernel": ((4, 8, 16), 32, 32)}),
    "Conv2DTranspose": (
        layers.Conv2DTranspose(3, 4, strides=2),
        {"kernel": ((4, 4, 3, 256), 1024, 48)},
    ),
    "SimpleRNN": (
        layers.SimpleRNNCell(4),
        {"kernel": ((6, 4), 6, 4), "recurrent_kernel": ((4, 4), 4, 4)},
    ),
    "LSTM": (
        layers.LSTMCell(4),
        {"kernel": ((6, 16), 6, 4), "recurrent_kernel": ((4, 16), 4, 4)},
    ),
    "GRU": (layers.GRUCell(4), {"kernel": ((6, 12), 6, 4), "recurrent_kernel": ((4, 12), 4, 4)}),
    "whole LSTM": (
        layers.LSTM(4),
        {"kernel": ((6, 16), 6, 4), "recurrent_kernel": ((4, 16), 4, 4)},
    ),
    "ConvLSTM2D": (
        layers.ConvLSTM2D(4, 3),
        {"kernel": ((3, 3, 6, 16), 54, 36), "recurrent_kernel": ((3, 3, 4, 16), 36, 36)},
    ),
    "EinsumDense": (
        layers.EinsumDense("abc,cde->abde", (None, 4, 5)),
        {"kernel": ((6, 4, 5), 6, 20)},
    ),
    "EinsumDense per head": (
        layers.EinsumDense("...hc,hcd->...hd", (None, 4, 5)),
        {"kernel": ((4, 6, 5), 6, 5)},
    ),
    "Embedding": (layers.Embedding(1000, 64), {"embeddings": ((1000, 64), 1, 64)}),
}


@pytest.mark.parametrize("kind", FANS)
def test_fans_are_counted_for_every_kind_of_kernel(kind):
    layer, kernels = FANS[kind]
    initializers = for_layer(layer, "glorot_uniform")
    assert set(initializers) == set(kernels)
    for name, (shape, fan_in, fan_out) in kernels.items():
        assert initializers[name].fans(shape) == (fan_in, fan_out)


def second_moment_gain(layer, shape, names, initializers, interior):
    """Returns E[y²] / E[z²] for inputs relu(z), z ~ N(0, 1); over output positions `interior`."""
    rng = np.random.default_rng(6)
    z = rng.normal(size=shape).astype("float32")
    if not layer.built:
        layer.build((None, *shape[1:]))
    for name, initializer in zip(names, initializers, strict=True):
        variable = getattr(layer, name)
        variable.assign(initializer(tuple(variable.shape)))
    y = ops.convert_to_numpy(layer(np.maximum(z, 0))).astype("float64")
    return (y[interior] ** 2).mean() / (z.astype("float64") ** 2).mean()


ALL = np.s_[:]
MIDDLE = np.s_[:, 4:-4]
MIDDLE_2D = np.s_[:, 6:-6, 6:-6]
GAINS = {
    "Dense": (lambda: layers.Dense(64), (64, 64), ALL),
    "Conv1D": (lambda: layers.Conv1D(64, 5), (8, 20, 32), ALL),
    "Conv2D": (lambda: layers.Conv2D(32, 3), (4, 10, 10, 32), ALL),
    "Conv2D strided": (lambda: layers.Conv2D(32, 3, strides=2), (4, 16, 16, 32), ALL),
    "Conv2D dilated": (lambda: layers.Conv2D(32, 3, dilation_rate=2), (4, 10, 10, 32), ALL),
    "Conv2D groups=8": (lambda: layers.Conv2D(64, 3, groups=8), (4, 10, 10, 64), ALL),
    "Conv3D": (lambda: layers.Conv3D(32, 3), (2, 6, 6, 6, 16), ALL),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 16)),
        (8, 8, 64),
        ALL,
    ),
    "EinsumDense per head": (
        lambda: layers.EinsumDense("abhc,hcd->abhd", (None, 8, 16)),
        (8, 8, 8, 16),
        ALL,
    ),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(5), (8, 20, 64), ALL),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3), (4, 10, 10, 64), ALL),
    "DepthwiseConv2D strided": (
        lambda: layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2),
        (4, 12, 12, 64),
        ALL,
    ),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(64, 5), (8, 20, 64), ALL),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(64, 3), (4, 10, 10, 64), ALL),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(64, 4, strides=2), (8, 16, 64), MIDDLE),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(32, 4, strides=2),
        (4, 12, 12, 64),
        MIDDLE_2D,
    ),
    "Conv2DTranspose to 3": (
        lambda: layers.Conv2DTranspose(3, 4, strides=2),
        (4, 12, 12, 128),
        MIDDLE_2D,
    ),
    "Conv2DTranspose 5x5 stride 3": (
        lambda: layers.Conv2DTranspose(32, 5, strides=3),
        (4, 10, 10, 64),
        MIDDLE_2D,
    ),
    "Conv3DTranspose": (
        lambda: layers.Conv3DTranspose(16, 2, strides=2),
        (2, 4, 4, 4, 32),
        ALL,
    ),
}


def mean_gain(make, shape, interior, schemes):
    layer = make()
    gains = []
    for seed in range(8):
        initializers = schemes(layer, seed)
        names = list(initializers)
        gains.append(second_moment_gain(layer, shape, names, initializers.values(), interior))
    return float(np.mean(gains))


def ours(layer, seed):
    return for_layer(layer, seed=seed, activation="relu")


def kerass(layer, seed):
    return {name: keras.initializers.HeNormal(seed=seed) for name in for_layer(layer, "he_normal")}


@pytest.mark.parametrize("kind", GAINS)
def test_the_second_moment_is_kept_by_every_kind_of_layer(kind):
    make, shape, interior = GAINS[kind]
    gain = mean_gain(make, shape, interior, ours)
    # Few output channels: their weights are few, and the mean of 8 seeds is noisier.
    assert gain == pytest.approx(1.0, abs=0.15 if kind.endswith("to 3") else 0.1)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("DepthwiseConv2D", 0.0, 0.05),
        ("DepthwiseConv1D", 0.0, 0.05),
        ("SeparableConv2D", 0.0, 0.05),
        ("Conv2DTranspose to 3", 5.0, 50.0),
    ],
)
def test_the_defect_of_keras_that_this_mends(kind, low, high):
    assert low < mean_gain(*GAINS[kind], kerass) < high


@pytest.mark.parametrize(
    ("activation", "scheme"),
    [
        *[(a, "HeNormal") for a in ("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish")],
        ("selu", "LecunNormal"),
        *[(a, "GlorotNormal") for a in (None, "linear", "tanh", "sigmoid", "softmax")],
    ],
)
def test_auto_chooses_by_the_activation(activation, scheme):
    own = for_layer(layers.Dense(3, activation=activation))
    named = for_layer(layers.Conv2D(3, 3), activation=activation)
    assert {type(i).__name__ for i in (own["kernel"], named["kernel"])} == {scheme}


def test_the_activation_may_be_a_layer_or_a_function():
    for activation in (layers.LeakyReLU(), layers.ReLU(), layers.PReLU(), keras.ops.relu):
        initializer = for_layer(layers.Dense(3), activation=activation)["kernel"]
        assert type(initializer).__name__ == "HeNormal"
    assert (
        type(for_layer(layers.Dense(3), activation=layers.Activation("selu"))["kernel"]).__name__
        == "LecunNormal"
    )


def test_only_a_kernel_before_the_activation_gets_its_scheme():
    both = for_layer(layers.SeparableConv2D(3, 3, activation="relu"))
    assert {k: type(v).__name__ for k, v in both.items()} == {
        "depthwise_kernel": "LecunNormal",
        "pointwise_kernel": "HeNormal",
    }


def test_each_kernel_gets_its_own_seed():
    layer = layers.SeparableConv2D(3, 3)
    a, b = for_layer(layer, "he_normal", seed=1).values()
    assert a.seed != b.seed
    again = for_layer(layer, "he_normal", seed=1).values()
    assert [i.seed for i in again] == [a.seed, b.seed]
    assert all(i.seed is None for i in for_layer(layer, "he_normal").values())


def test_layers_without_kernels_give_nothing():
    assert for_layer(layers.BatchNormalization()) == {}
    assert for_layer(layers.ReLU()) == {}


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="he_uniform"):
        for_layer(layers.Dense(3), "kaiming")
    with pytest.raises(TypeError, match="calibration"):
        for_layer("dense")


SAME = {
    "3x3 on 4x4": (lambda: layers.Conv2D(64, 3, padding="same"), (8, 4, 4, 32), 0.694),
    "7x7 on 7x7": (lambda: layers.Conv2D(64, 7, padding="same"), (8, 7, 7, 32), 0.571),
    "strided": (lambda: layers.Conv2D(64, 3, 2, padding="same"), (8, 4, 4, 32), 0.694),
    "dilated": (lambda: layers.Conv1D(64, 3, padding="same", dilation_rate=2), (8, 6, 32), 0.778),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, padding="same"), (8, 4, 4, 64), 0.694),
}


@pytest.mark.parametrize("kind", SAME)
def test_same_padding_is_counted_on_request(kind):
    make, shape, part = SAME[kind]

    def corrected(layer, seed):
        return for_layer(layer, seed=seed, activation="relu", spatial_shape=shape[1:-1])

    assert mean_gain(make, shape, ALL, corrected) == pytest.approx(1.0, abs=0.1)
    fans = [s(make(), 1)["kernel"] for s in (corrected, ours)]
    kernel = (*make().kernel_size, shape[-1], 1 if kind == "depthwise" else 64)
    ratio = fans[0].fans(kernel)[0] / fans[1].fans(kernel)[0]
    if kind not in ("strided", "dilated"):
        assert ratio == pytest.approx(part, abs=1e-3)
    with pytest.raises(ValueError, match="spatial_shape"):
        for_layer(make(), spatial_shape=(4, 4, 4))
