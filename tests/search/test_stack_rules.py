"""Every kind of layer: two models trained together, each against Keras training it alone."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl

from kerastools.layers import AlphaDropout, Dropout, SpatialDropout1D
from kerastools.optimizers import SGD
from kerastools.search._stacked.eligibility import why_model_cannot_stack
from tests.search.stacked import weights_of

pytestmark = pytest.mark.tensorflow

ROWS, SIZE, EPOCHS = 22, 2, 4  # Batches of 8, 8 and 6 rows.
rng = np.random.default_rng(0)


def data(shape, ids=None):
    x = rng.normal(size=(ROWS, *shape)).astype("float32")
    if ids is not None:
        # Those below 0 count from the end.
        x = rng.integers(-ids, ids, size=(ROWS, *shape)).astype("float32")
    return x, rng.integers(3, size=ROWS)


def net(shape, body, k):
    """A net with `body` between a first layer and a softmax; its weights are the k-th's."""
    keras.utils.set_random_seed(k)
    inputs = keras.Input(shape)
    x = body(inputs, k)
    if len(x.shape) > 2:
        x = kl.Flatten(name="flat")(x)
    # Named, so that it is not named by chance as one of the body is, which was named long before.
    model = keras.Model(inputs, kl.Dense(3, activation="softmax", name="head")(x))
    # Batch statistics and biases start at 0 and 1: everything is moved away from there.
    model.set_weights(
        [
            w + 0.1 * np.random.normal(size=w.shape) ** 2 if w.dtype == "float32" and w.shape else w
            for w in model.get_weights()
        ]
    )
    model.compile(SGD(0.05 * (k + 1), 0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def chain(*makers):
    def body(x, k):
        for make in makers:
            x = (
                make(k)(x)
                if isinstance(make, type(lambda: 0))
                else make.from_config(make.get_config())(x)
            )
        return x

    return body


def squeeze(x, k):
    y = kl.Conv2D(4, 3, padding="same", activation="tanh")(x)
    s = kl.Dense(4, activation="sigmoid")(kl.GlobalAveragePooling2D(keepdims=True)(y))
    y = kl.Multiply()([y, s])
    y = kl.Add()([y, kl.Conv2D(4, 1)(x)])
    return kl.Concatenate()([y, kl.AveragePooling2D(3, 1, padding="same")(x)])


def shared(x, k):
    norm, drop = kl.BatchNormalization(), Dropout(0.2, seed=k)
    inner = keras.Sequential([keras.Input((6,)), kl.Dense(6, activation="tanh"), norm, drop])
    return inner(drop(norm(inner(x)))) * 0.5 + keras.ops.tanh(x)


def sliced(x, k):
    y = kl.LSTM(4, return_sequences=True)(x)
    return kl.Concatenate()([y[:, -1], x[..., 1], kl.Flatten()(y[:, None, ::2])])


def prepared(x, k):
    # Of one configuration and shape: only what they were adapted to tells them apart.
    for top in (1.0, 2.0, 3.0):
        layer = kl.Normalization()
        layer.adapt(np.linspace(-1, top, 24).reshape(4, 6))
        x = kl.Dense(6)(layer(x))
    return x


def attention(x, k):
    y = kl.MultiHeadAttention(2, 3)(x, x)
    return kl.GlobalAveragePooling1D()(kl.LayerNormalization()(kl.Add()([x, y])))


LINE, IMAGE, FLAT, VOLUME = (6, 4), (6, 6, 3), (6,), (4, 4, 4, 2)
T = "tanh"
BODIES = {
    "dense": (FLAT, chain(kl.Dense(5, T), kl.BatchNormalization(), kl.Dense(4, "softmax"))),
    "dense on lines": (LINE, chain(kl.Dense(5, T, use_bias=False), kl.Dense(4))),
    "einsum": (
        LINE,
        chain(
            kl.EinsumDense("abc,cde->abde", (6, 2, 3), bias_axes="de", activation=T),
            kl.EinsumDense("abde,def->abf", (6, 5), bias_axes="bf"),
        ),
    ),
    "conv1d": (
        LINE,
        chain(
            kl.Conv1D(4, 3, padding="causal", activation=T),
            kl.Conv1D(6, 3, 2, "same", groups=2),
            kl.BatchNormalization(),
            lambda k: SpatialDropout1D(0.1 * k, seed=k),
            kl.MaxPooling1D(2),
        ),
    ),
    "conv2d": (
        IMAGE,
        chain(
            kl.Conv2D(4, 3, padding="same", activation=T),
            kl.BatchNormalization(),
            kl.Conv2D(4, 3, strides=2, padding="same", activation="softmax"),
            lambda k: Dropout(0.2 * k, seed=k),
            kl.ZeroPadding2D(1),
            kl.Conv2D(4, 2, use_bias=False),
            kl.AveragePooling2D(2),
            kl.GlobalMaxPooling2D(),
        ),
    ),
    "max pooling": (
        IMAGE,
        chain(
            kl.MaxPooling2D(2, 1),
            kl.Conv2D(4, 2, padding="same", activation="relu"),
            kl.MaxPooling2D(2),
            kl.Dense(3),
            kl.MaxPooling2D((1, 2), padding="same"),
        ),
    ),
    "conv3d": (VOLUME, chain(kl.Conv3D(2, 2, activation=T), kl.MaxPooling3D(2))),
    "depthwise": (
        IMAGE,
        chain(
            kl.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation=T),
            kl.DepthwiseConv2D(2, strides=2),
            kl.Cropping2D(1),
        ),
    ),
    "depthwise1d": (
        LINE,
        chain(
            kl.DepthwiseConv1D(3),
            kl.DepthwiseConv1D(3, 2, padding="same"),
        ),
    ),
    "separable": (
        IMAGE,
        chain(
            kl.SeparableConv2D(4, 3, padding="same", activation=T),
            kl.SeparableConv2D(4, 2),
            kl.UpSampling2D(2),
        ),
    ),
    "separable1d": (LINE, chain(kl.SeparableConv1D(4, 3), kl.SeparableConv1D(4, 2))),
    "transposed": (IMAGE, chain(kl.Conv2DTranspose(2, 2, 2), kl.GroupNormalization(1))),
    "layer norm": (
        LINE,
        chain(
            kl.LayerNormalization(),
            kl.Dense(4),
            kl.LayerNormalization(center=False),
            kl.LayerNormalization(axis=1),
            kl.RMSNormalization(),
            kl.UnitNormalization(),
        ),
    ),
    "activations": (
        IMAGE,
        chain(
            kl.PReLU(),
            kl.Conv2D(3, 1),
            kl.PReLU(shared_axes=[1, 2]),
            kl.LeakyReLU(),
            kl.ELU(),
            kl.PReLU(shared_axes=[3]),
            kl.ReLU(4.0),
            kl.Activation("selu"),
            kl.Softmax(),
        ),
    ),
    "dropouts": (
        LINE,
        chain(
            kl.Dense(4),
            lambda k: AlphaDropout(0.1 * k, seed=k),
            kl.GaussianNoise(0.1),
            lambda k: Dropout(0.2, noise_shape=(None, 1, None), name="shared_mask"),
            kl.Dropout(0.2),
            lambda k: SpatialDropout1D(0.2, seed=k),
            kl.GaussianDropout(0.2),
        ),
    ),
    "shapes": (
        LINE,
        chain(
            kl.Permute((2, 1)),
            kl.Reshape((2, 12)),
            kl.Dense(3),
            kl.Reshape((-1,)),
            kl.RepeatVector(2),
            kl.Rescaling(0.5, 0.1),
            kl.ZeroPadding1D(1),
            kl.UpSampling1D(2),
            kl.Cropping1D(1),
            kl.GlobalMaxPooling1D(),
        ),
    ),
    "embedding": (FLAT, chain(kl.Embedding(7, 3), kl.Reshape((-1,)), kl.BatchNormalization())),
    "lstm": (
        LINE,
        chain(
            kl.LSTM(3, return_sequences=True),
            kl.LSTM(2, go_backwards=True, use_bias=False),
        ),
    ),
    "gru": (LINE, chain(kl.GRU(3, return_sequences=True), kl.GRU(2, reset_after=False))),
    "simple rnn": (
        LINE,
        chain(
            kl.Bidirectional(kl.SimpleRNN(3, return_sequences=True), merge_mode="ave"),
            kl.Bidirectional(kl.SimpleRNN(2)),
        ),
    ),
    "squeeze": (IMAGE, squeeze),
    "shared and nested": (FLAT, shared),
    "slices": (LINE, sliced),
    "attention": (LINE, attention),
    "normalization": (FLAT, prepared),
}


def train_together(models, x, y, epochs=EPOCHS):
    from kerastools.search._stacked.stacked_model import StackedModel

    stacked = StackedModel(models[0], SIZE)
    # Whose place it was is not to be seen.
    stacked.load(dict(enumerate(reversed(models))))
    stacked.train(x, y, 8, np.arange(ROWS))
    stacked.load(dict(enumerate(models)))
    logs = []
    for _ in range(epochs):
        log = stacked.train(x, y, 8, np.arange(ROWS))
        logs = [a | b for a, b in zip(log, stacked.evaluate(x, y, 8), strict=True)]
    return stacked, logs


@pytest.mark.parametrize("kind", BODIES)
def test_a_member_with_this_layer_equals_its_model_trained_alone(kind):
    shape, body = BODIES[kind]
    x, y = data(shape, 7 if kind == "embedding" else None)
    models = [net(shape, body, k) for k in range(SIZE)]
    assert why_model_cannot_stack(models[0]) is None
    stacked, logs = train_together(models, x, y)
    alone, k = models[1], 1
    history = alone.fit(x, y, batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0).history
    alone.run_eagerly = True  # Once through is not worth a trace.
    validated = alone.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    history |= {f"val_{name}": [value] for name, value in validated.items()}
    for mine, own, v in zip(
        weights_of(stacked, k), alone.get_weights(), alone.weights, strict=True
    ):
        np.testing.assert_allclose(mine, own, rtol=0, atol=1e-4, err_msg=v.path)
    for name, values in history.items():
        assert logs[k][name] == pytest.approx(values[-1], abs=2e-4), name


@pytest.mark.parametrize(("axis", "together"), [(-1, True), (2, True), (1, False), ([1, 2], False)])
def test_layer_norms_of_the_last_axis_are_computed_together(axis, together):
    from kerastools.search._stacked.rules.registry import find_rule

    layer = kl.LayerNormalization(axis=axis)
    layer.build((None, *LINE))
    assert (find_rule(layer) is not None) == together


@pytest.mark.parametrize("size", [(2, 2), (3, 2)])
def test_the_first_of_the_largest_of_a_block_gets_its_gradient(size):
    import tensorflow as tf

    from kerastools.search._stacked.rules.rows import max_pool_blocks

    # Most blocks have several largest numbers; rows and columns are left over.
    x = rng.integers(3, size=(2, 7, 5, 3)).astype("float32")
    rows, columns = 7 // size[0], 5 // size[1]
    g = rng.normal(size=(2, rows, columns, 3)).astype("float32")
    expected = np.zeros_like(x)
    for n, i, j, c in np.ndindex(g.shape):
        block = np.s_[n, i * size[0] : (i + 1) * size[0], j * size[1] : (j + 1) * size[1], c]
        row, column = np.unravel_index(x[block].argmax(), size)
        expected[n, i * size[0] + row, j * size[1] + column, c] = g[n, i, j, c]
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        y = max_pool_blocks(inputs, size)
    np.testing.assert_array_equal(y, tf.nn.max_pool2d(x, size, size, "VALID"))
    np.testing.assert_array_equal(tape.gradient(y, inputs, g), expected)


def test_an_index_beyond_the_table_finds_no_row_of_another_member():
    x, y = data(FLAT, 7)
    x[9, 0] = 7
    models = [net(*BODIES["embedding"], k) for k in range(SIZE)]
    with pytest.raises(Exception, match=r"is not in \[0, 14\)"):
        train_together(models, x, y, 1)


def test_without_grouped_convolutions_members_are_convolved_one_by_one(monkeypatch):
    """As with TF_ENABLE_ONEDNN_OPTS=0 on CPUs."""
    from kerastools.search._stacked.rules import convolution as _convolution

    if not _convolution.groups_work():
        if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1":
            pytest.skip("TensorFlow has no gradient of grouped convolutions on this machine.")
        # oneDNN is off where a CPU lacks AVX-512; a process of its own may ask for it.
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-k", "grouped or conv2d", __file__]
        with_onednn = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1"}
        done = subprocess.run(command, env=with_onednn, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        if "SKIPPED" in done.stdout:
            pytest.skip(done.stdout)
        return
    x, y = data(IMAGE)
    body = chain(kl.Conv2D(4, 3), kl.SeparableConv2D(3, 2), kl.Conv2D(4, 2, activation=T))
    weights = []
    for works in (True, False):
        monkeypatch.setattr(_convolution, "groups_work", lambda works=works: works)
        stacked, _ = train_together([net(IMAGE, body, k) for k in range(SIZE)], x, y, epochs=1)
        weights.append(weights_of(stacked, 1))
    for grouped, single in zip(*weights, strict=True):
        np.testing.assert_allclose(grouped, single, rtol=0, atol=1e-5)
