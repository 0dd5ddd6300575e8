"""Sound nets of many architectures raise no alarm; a spoilt one is mended whatever its graph."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.calibration import initialize
from kerastools.diagnosis import diagnose

RNG = np.random.default_rng(1)
CLASSES, BINARY = "sparse_categorical_crossentropy", "binary_crossentropy"
Y = RNG.integers(0, 4, 64)


def rows(*shape):
    return RNG.normal(size=(64, *shape)).astype("float32")


def transformer():
    inputs = keras.Input((8,), dtype="int32")
    places = layers.Embedding(8, 16)(ops.cumsum(ops.ones_like(inputs), axis=1) - 1)
    x = layers.Add()([layers.Embedding(50, 16)(inputs), places])
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8, dropout=0.1)(y, y)])
        y = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dropout(0.1)(layers.Dense(16)(y))])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax")(x))
    return model, RNG.integers(0, 50, (64, 8)), Y, CLASSES


def autoencoder():
    stack = [keras.Input((8, 8, 1))]
    stack += [layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")]
    stack += [layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")]
    stack += [layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")]
    stack += [layers.Conv2DTranspose(1, 3, strides=2, padding="same")]
    x = rows(8, 8, 1)
    return keras.Sequential(stack), x, x, "mse"


def u_net():
    inputs = keras.Input((8, 8, 1))
    fine = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    coarse = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(fine))
    joined = layers.Concatenate()([fine, layers.UpSampling2D()(coarse)])
    mask = layers.Conv2D(1, 1, activation="sigmoid")(joined)
    x = rows(8, 8, 1)
    return keras.Model(inputs, mask), x, (x > 0).astype("float32"), BINARY


def twins():
    """One encoder for two inputs, and two outputs with losses of their own."""
    a, b = keras.Input((8,), name="z"), keras.Input((8,), name="a")
    encoder = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, "relu"), layers.Dense(16, "relu")], name="encoder"
    )
    apart = layers.Subtract()([encoder(a), encoder(b)])
    same = layers.Dense(1, activation="sigmoid", name="same")(apart)
    distance = layers.Dense(1, name="distance")(ops.abs(apart))
    x = [rows(8), rows(8)]
    y = [(x[0][:, 0] > x[1][:, 0]).astype("float32"), x[0][:, 1] - x[1][:, 1]]
    return keras.Model([a, b], [same, distance]), x, y, [BINARY, "mse"]


def recurrent_regression():
    stack = [keras.Input((6, 3)), layers.Masking(), layers.GRU(8), layers.Dense(1)]
    x = rows(6, 3)
    return keras.Sequential(stack), x, x.sum(axis=(1, 2)) / 4, "huber"


SOUND = [
    transformer,
    autoencoder,
    u_net,
    twins,
    recurrent_regression,
]


@pytest.mark.tensorflow  # JAX compiles each of the nets for seconds.
@pytest.mark.parametrize("make", SOUND, ids=lambda make: make.__name__)
def test_sound_nets_raise_no_alarm(make):
    keras.utils.set_random_seed(1)
    model, x, y, loss = make()
    initialize(model, seed=1)
    diagnosis = diagnose(model, x, y, loss, optimizer=keras.optimizers.Adam(1e-3))
    assert diagnosis.findings == (), str(diagnosis)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX compiles each of 150 shapes")
def test_a_net_of_keras_applications_raises_no_alarm():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=4)
    assert diagnose(initialize(model, seed=1), rows(32, 32, 3), Y, CLASSES).findings == ()


@pytest.mark.tensorflow  # JAX compiles each of the nets for seconds.
def test_a_shared_encoder_and_two_outputs_are_mended():
    keras.utils.set_random_seed(1)
    model, x, y, loss = twins()
    for layer in model.get_layer("encoder").layers:  # Of one alone the units would part.
        layer.kernel.assign(ops.full(layer.kernel.shape, 0.1))
    diagnosis = diagnose(model, [300 * x[0] + 50, x[1]], [y[0], 1e4 * y[1]], loss)
    rules = [f.rule for f in diagnosis.findings]
    assert set(rules) == {"inputs not normalised", "labels", "identical weights"}
    repair = diagnosis.repair(seed=1)
    assert repair.verified, str(repair)
    shared = [layer for layer in repair.model.layers if layer.name == "encoder"]
    assert len(shared) == 1
    assert len(repair.model.outputs) == 2
