import keras
import numpy as np
import pytest
from keras import layers, ops

import kerastools.layers
from kerastools.regularization import regularize


def rows(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def everything():
    """Nested, shared, recurrent, attentive and convolutional."""
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.DepthwiseConv2D(3, activation="relu", name="depthwise"),
            layers.SeparableConv2D(4, 3, name="separable"),
            layers.Conv2DTranspose(4, 3, name="up"),
        ],
        name="inner",
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Reshape((9, 16))(inner(x)[:, :6, :6])
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")(x)
    x = layers.GRU(4, name="gru")(x)
    shared = layers.Dense(4, activation="selu", name="shared")
    x = shared(shared(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="output")(x))


L1, L2 = 1e-3, 1e-2


@pytest.fixture(scope="module")
def plain():
    return everything()


@pytest.fixture(scope="module")
def tamed(plain):
    return regularize(plain, L1, L2, max_norm=0.3, dropout=0.2, top_layers=2)


def test_nothing_changes_in_inference_and_the_argument_is_left_alone(plain, tamed):
    x = rows(5, 8, 8, 3)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(model(x)) for model in (tamed, plain)))
    assert not [layer.name for layer in plain.layers if layer.name.endswith("_dropout")]
    assert plain.losses == []
    assert not {id(v) for v in plain.variables} & {id(v) for v in tamed.variables}


def kernels(model):
    return [v for v in model.trainable_variables if len(v.shape) > 1 and v.name != "bias"]


def test_the_penalty_is_that_of_every_kernel(plain, tamed):
    w = [ops.convert_to_numpy(v).astype("float64") for v in kernels(plain)]
    expected = sum(L1 * abs(v).sum() + L2 * (v**2).sum() for v in w)
    assert float(sum(tamed.losses)) == pytest.approx(expected, rel=1e-5)


def unit_norms(model):
    """Returns the norm of each unit's incoming weights, from Keras's documented layouts."""
    axes = {
        "conv/kernel": (0, 1, 2),
        "depthwise/kernel": (0, 1),
        "separable/depthwise_kernel": (0, 1),
        "separable/pointwise_kernel": (0, 1, 2),
        "up/kernel": (0, 1, 3),
        "attention/query/kernel": (0,),
        "attention/key/kernel": (0,),
        "attention/value/kernel": (0,),
        "attention/attention_output/kernel": (0, 1),
    }
    found = {}
    for v in kernels(model):
        axis = next((a for path, a in axes.items() if v.path.endswith(path)), 0)
        w = ops.convert_to_numpy(v).astype("float64")
        found[v.path] = np.sqrt((w**2).sum(axis=axis))
    return found


@pytest.mark.tensorflow  # Saving is the same on both.
def test_fit_keeps_what_was_added_to_a_model_that_was_loaded(tamed, tmp_path):
    tamed.save(tmp_path / "tamed.keras")
    model = keras.models.load_model(tmp_path / "tamed.keras")
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    model.fit(rows(16, 8, 8, 3), np.arange(16) % 3, epochs=1, verbose=0)
    norms = unit_norms(model)
    assert max(n.max() for n in norms.values()) <= 0.3 * (1 + 1e-6)
    assert all(n.max() > 0.29 for n in norms.values())
    assert len(model.losses) == len(kernels(model))
    dropouts = [a for a in model.layers if isinstance(a, kerastools.layers.AlphaDropout)]
    assert [a.name for a in dropouts] == ["shared_dropout", "output_dropout"]


def test_fit_uses_what_was_added():
    model = regularize(dense_net(), l2=1.0, max_norm=0.3)
    x, y = np.zeros((16, 6), "float32"), np.zeros((16, 2), "float32")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    w = [ops.convert_to_numpy(v).astype("float64") for v in kernels(model)]
    history = model.fit(x, y, batch_size=16, epochs=1, verbose=0).history
    # The error is 0: what is left is the penalty, of the weights before the update.
    assert history["loss"][0] == pytest.approx(sum((v**2).sum() for v in w), rel=1e-5)
    assert all(n.max() <= 0.3 * (1 + 1e-6) for n in unit_norms(model).values())


def dense_net():
    return keras.Sequential(
        [
            keras.Input((6,)),
            *[layers.Dense(8, activation="relu", name=f"d{i}") for i in range(4)],
            layers.Dense(2, name="output"),
        ]
    )


def dropped_before(model):
    return [layer.name for layer in model.layers if layer.name.endswith("_dropout")]


def test_dropout_stands_before_the_top_layers_and_not_behind_the_output():
    assert dropped_before(regularize(dense_net(), dropout=0.2)) == [
        "d2_dropout",
        "d3_dropout",
        "output_dropout",
    ]
    assert dropped_before(regularize(dense_net(), dropout=0.2, top_layers=1)) == ["output_dropout"]
    # The inputs of the model are not dropped.
    assert len(dropped_before(regularize(dense_net(), dropout=0.2, top_layers=9))) == 4
    # Nor is what is dropped already.
    twice = regularize(regularize(dense_net(), dropout=0.2), dropout=0.3)
    assert dropped_before(twice) == ["d2_dropout", "d3_dropout", "output_dropout"]


def test_the_dropout_suits_what_it_drops():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", name="a"),
            layers.Conv2D(4, 3, activation="relu", name="b"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="c"),
            layers.Activation("selu"),
            layers.Dense(2, name="d"),
        ]
    )
    tamed = regularize(model, dropout=0.2)
    kinds = {n: type(tamed.get_layer(n)).__name__ for n in dropped_before(tamed)}
    assert kinds == {
        "b_dropout": "SpatialDropout2D",
        "c_dropout": "Dropout",
        "d_dropout": "AlphaDropout",
    }
    assert not np.allclose(*[tamed(rows(2, 8, 8, 3), training=True) for _ in range(2)])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_model_of_keras_applications_is_penalised_and_frozen_as_it_was():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=4)
    for layer in model.layers[:-1]:
        layer.trainable = False
    tamed = regularize(model, l2=1e-4, max_norm=3.0, dropout=0.2, top_layers=1)
    kept = {v.path: ops.convert_to_numpy(v) for v in tamed.weights}
    for v in model.weights:
        np.testing.assert_array_equal(kept[v.path], ops.convert_to_numpy(v))
    assert [v.path for v in tamed.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    assert len(tamed.losses) == 1  # Keras penalises what is trained.


@pytest.mark.parametrize(
    "arguments",
    [{}, {"l1": -1}, {"l2": float("nan")}, {"max_norm": 0}, {"dropout": 1.0}, {"dropout": 30}],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="regularize"):
        regularize(dense_net(), **arguments)
    with pytest.raises(ValueError, match="top_layers"):
        regularize(dense_net(), dropout=0.1, top_layers=0)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        regularize(layers.Dense(2), l2=0.1)
