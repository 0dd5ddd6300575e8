import keras
import numpy as np
import pytest
from keras import ops, random

import kerastools
from kerastools._core.batches import Batches
from kerastools._core.graph.kinds import layer_classes
from kerastools.callbacks import FreezeSchedule, Phase
from kerastools.pretraining import GaussianNoise, MaskingNoise, pretrain_autoencoder
from kerastools.transfer import reuse_layers

L = keras.layers


def dense_encoder(*units, features=8, activation="tanh"):
    keras.utils.set_random_seed(3)
    layers = [L.Dense(n, activation, name=f"hidden_{i}") for i, n in enumerate(units, 1)]
    return keras.Sequential([keras.Input((features,)), *layers], name="encoder")


def rows(num_rows=64, features=8, rank=3):
    """Rows near a subspace."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(num_rows, rank)) @ rng.normal(size=(rank, features))
    return (x + 0.1 * rng.normal(size=x.shape)).astype("float32")


def test_linear_tied_autoencoder_spans_the_subspace_of_pca(capsys):
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    x = rng.normal(size=(256, 8)) * [3, 2.5, 2, 0.5, 0.4, 0.3, 0.2, 0.1] @ basis.T
    x = (x - x.mean(axis=0)).astype("float32")
    encoder = dense_encoder(3, activation=None)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 300))
    model = pretrain_autoencoder(
        encoder, x, "tied", optimizer=optimizer, epochs=300, batch_size=256, verbose=0
    )
    learned, _ = np.linalg.qr(encoder.get_weights()[0].astype("float64"))
    _, values, axes = np.linalg.svd(x.astype("float64"), full_matrices=False)
    cosines = np.linalg.svd(learned.T @ axes[:3].T, compute_uv=False)
    angles = np.degrees(np.arccos(np.clip(cosines, 0, 1)))
    best = (values[3:] ** 2).sum() / x.size
    with capsys.disabled():
        print(f"\nprincipal angles {angles} degrees; loss {model.history.history['loss'][-1]:.6f}")
        print(f"loss of PCA {best:.6f}")
    assert angles.max() < 0.5
    assert model.history.history["loss"][-1] == pytest.approx(best, rel=1e-3)


ENCODERS = {
    "dense": ((9,), [L.Dense(7), L.Dropout(0.2), L.Dense(4)]),
    "images": (
        (9, 7, 2),
        [L.Conv2D(4, 3, strides=2, padding="same"), L.Conv2D(3, 3), L.Flatten(), L.Dense(5)],
    ),
    "pooling": ((9, 8, 2), [L.Conv2D(4, 3, padding="same"), L.ReLU(), L.MaxPooling2D(2)]),
    "even kernels": ((9, 8, 1), [L.Conv2D(2, 4, strides=2, padding="same"), L.Conv2D(2, 2)]),
    "series": (
        (11, 3),
        [L.Conv1D(4, 5, strides=3), L.AveragePooling1D(2, padding="same"), L.Dense(2)],
    ),
    "volumes": ((5, 4, 4, 1), [L.Conv3D(2, 2, strides=2, padding="same")]),
    "global": ((6, 6, 1), [L.Conv2D(3, 3), L.GlobalAveragePooling2D(), L.Dense(2)]),
    "reshaped": ((12,), [L.Reshape((3, 4)), L.Conv1D(2, 2), L.BatchNormalization()]),
}


@pytest.mark.tensorflow  # Shapes are the same on both.
@pytest.mark.parametrize("decoder", ["mirrored", "tied"])
@pytest.mark.parametrize("name", ENCODERS)
def test_mirror_returns_to_the_shape_of_the_input(name, decoder):
    shape, layers = ENCODERS[name]
    layers = [type(layer).from_config(layer.get_config()) for layer in layers]
    encoder = keras.Sequential([keras.Input(shape), *layers])
    x = np.random.default_rng(1).random((4, *shape))
    model = pretrain_autoencoder(encoder, x, decoder, epochs=0, batch_size=4)
    assert tuple(ops.shape(model(x.astype("float32")))) == x.shape
    assert model.layers[1] is encoder.layers[0]


def test_mirror_ends_each_layer_in_the_activation_that_made_its_input():
    layers = [L.Dense(7, "relu"), L.Dense(6), L.BatchNormalization(), L.ELU(), L.Dense(4, "tanh")]
    encoder = keras.Sequential([keras.Input((9,)), *layers])
    x = np.random.default_rng(1).random((8, 9))
    model = pretrain_autoencoder(encoder, x, loss="binary_crossentropy", epochs=0, batch_size=8)
    back = [layer for layer in model.get_layer("decoder").layers if layer.weights]
    assert [layer.units for layer in back] == [6, 7, 9]
    names = [getattr(a.activation, "name", a.activation.__name__) for a in back[1:]]
    assert isinstance(back[0].activation, L.ELU)
    assert names == ["relu", "sigmoid"]


# Of every class there is, those that work on rows of features.
RANDOM = [
    *layer_classes("dropout", "alpha_dropout", "gaussian_dropout", "noise"),
    *(kerastools.layers.Dropout, kerastools.layers.AlphaDropout),
]
NORMALISATIONS = layer_classes("batch_normalization", "layer_normalization", "unit_normalization")
ONE_WAY = [*RANDOM, *NORMALISATIONS, *layer_classes("identity", "penalty")]


@pytest.mark.tensorflow  # Which layers are mirrored is the same on both.
@pytest.mark.parametrize("cls", ONE_WAY, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_mirror_leaves_out_what_only_regularises_or_normalises(cls):
    arguments = (0.2,) if cls in RANDOM else (2,) if cls is L.GroupNormalization else ()
    layers = [L.Dense(6, "relu"), cls(*arguments), L.Dense(3)]
    encoder = keras.Sequential([keras.Input((8,)), *layers])
    model = pretrain_autoencoder(encoder, rows(), epochs=0, batch_size=4)
    decoder = model.get_layer("decoder")
    assert [layer.units for layer in decoder.layers if layer.weights] == [6, 8]
    expected = "linear" if cls in NORMALISATIONS else "relu"
    assert decoder.layers[1].activation.__name__ == expected


@pytest.mark.tensorflow
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("room", [L, kerastools.layers])
def test_mirror_leaves_out_spatial_dropout(room, rank):
    dropout = getattr(room, f"SpatialDropout{rank}D")(0.2)
    conv = getattr(L, f"Conv{rank}D")(3, 3)
    encoder = keras.Sequential([keras.Input((5,) * rank + (1,)), conv, dropout])
    x = np.random.default_rng(1).random((4, *(5,) * rank, 1))
    model = pretrain_autoencoder(encoder, x, epochs=0, batch_size=4)
    assert tuple(ops.shape(model(x.astype("float32")))) == x.shape


@pytest.mark.parametrize("noise", [None, GaussianNoise(0.5), MaskingNoise(0.4, kept_weight=0.2)])
@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy"])
def test_loss_is_its_definition(noise, loss):
    x = np.random.default_rng(1).random((12, 8)).astype("float32")
    encoder = dense_encoder(4)
    still = keras.optimizers.SGD(0.0)
    settings = {"optimizer": still, "epochs": 1, "batch_size": 6, "seed": 0, "verbose": 0}
    model = pretrain_autoencoder(encoder, x, noise=noise, loss=loss, **settings)
    keep = noise or (lambda rows, rng: (rows, None))
    batches = Batches([x], 6, 0, lambda arrays, rng: (arrays[0], *keep(arrays[0], rng)))
    want = []
    for clean, noisy, weight in (batches[i] for i in range(2)):
        out = np.asarray(model.predict(noisy, verbose=0), "float64")
        each = (clean - out) ** 2
        if loss == "binary_crossentropy":
            each = -(clean * np.log(out) + (1 - clean) * np.log(1 - out))
        want.append(np.average(each, weights=weight))
    assert model.history.history["loss"][0] == pytest.approx(np.mean(want), rel=2e-5)


def test_denoising_learns_and_the_trunk_is_reused_under_a_freeze_schedule():
    """pretrain → reuse_layers → FreezeSchedule."""
    x = rows()
    encoder = dense_encoder(6, 4)
    model = pretrain_autoencoder(
        encoder, x, noise=MaskingNoise(0.2), epochs=10, batch_size=8, verbose=0
    )
    losses = model.history.history["loss"]
    assert losses[-1] < 0.95 * losses[0]
    trunk = reuse_layers(model, upto="hidden_1")
    np.testing.assert_array_equal(trunk.get_weights()[0], encoder.get_weights()[0])
    top = keras.Model(trunk.inputs[0], L.Dense(1, name="head")(trunk.outputs[0]))
    top.compile(keras.optimizers.Adam(0.01), "mse")
    first = trunk.get_weights()[0]
    schedule = FreezeSchedule([Phase("head", epochs=1), Phase("all", lr_multiplier=0.5)])
    top.fit(x, x[:, :1], epochs=1, callbacks=[schedule], verbose=0)
    np.testing.assert_array_equal(trunk.get_weights()[0], first)
    top.fit(x, x[:, :1], initial_epoch=1, epochs=2, callbacks=[schedule], verbose=0)
    assert (trunk.get_weights()[0] != first).any()


@pytest.mark.parametrize("decoder", ["mirrored", "tied"])
def test_greedy_trains_one_layer_after_the_other(decoder, capsys):
    x = rows()
    encoder = dense_encoder(6, 4)
    alone = dense_encoder(6)  # the same first layer
    arguments = {"decoder": decoder, "epochs": 8, "greedy": True, "seed": 0}
    model = pretrain_autoencoder(encoder, x, **arguments)
    shown = capsys.readouterr().out
    assert "layer 1 of 2, hidden_1" in shown
    assert "layer 2 of 2, hidden_2" in shown
    assert "loss: " in shown
    pretrain_autoencoder(alone, x, verbose=0, **arguments)
    # What came after did not touch the first layer.
    for a, b in zip(encoder.get_weights()[:2], alone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    history = model.history.history
    assert list(history) == ["hidden_1_loss", "hidden_2_loss"]
    assert all(len(losses) == 8 and losses[-1] < losses[0] for losses in history.values())
    assert model.output_shape == (None, 8)
    assert [layer.output.shape for layer in encoder.layers] == [(None, 6), (None, 4)]


@pytest.mark.tensorflow  # Dense layers are trained greedily on both.
def test_greedy_learns_convolutions():
    x = np.random.default_rng(1).random((16, 8, 8, 1))
    layers = [L.Conv2D(4, 3, padding="same", name="a"), L.MaxPooling2D(), L.Flatten()]
    encoder = keras.Sequential([keras.Input((8, 8, 1)), *layers, L.Dense(5, name="b")])
    model = pretrain_autoencoder(encoder, x, greedy=True, epochs=1, batch_size=8, verbose=0)
    assert list(model.history.history) == ["a_loss", "b_loss"]
    assert model.output_shape == (None, 8, 8, 1)


class CtrlC(keras.callbacks.Callback):
    def __init__(self, number):
        super().__init__()
        self.left = number

    def on_epoch_end(self, epoch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_interrupted_greedy_training_goes_on_to_the_bit(tmp_path):
    x, noise = rows(), GaussianNoise(0.2)
    arguments = {"greedy": True, "epochs": 3, "noise": noise, "seed": 0, "verbose": 0}
    straight = pretrain_autoencoder(dense_encoder(6, 4), x, **arguments)
    with pytest.raises(KeyboardInterrupt):  # in the second epoch of the second layer
        pretrain_autoencoder(
            dense_encoder(6, 4), x, directory=tmp_path, callbacks=[CtrlC(4)], **arguments
        )
    resumed = pretrain_autoencoder(dense_encoder(6, 4), x, directory=tmp_path, **arguments)
    assert resumed.history.history == straight.history.history
    for a, b in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_seed_fixes_all_and_leaves_the_global_seed_alone():
    x = rows()
    runs = []
    for seed in (1, 1, 2):
        encoder = dense_encoder(4)
        keras.utils.set_random_seed(0)
        pretrain_autoencoder(
            encoder, x, noise=MaskingNoise(), seed=seed, epochs=1, verbose=0, batch_size=16
        )
        runs.append((encoder.get_weights()[0], float(random.normal(()))))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert (runs[0][0] != runs[2][0]).any()
    assert runs[0][1] == runs[1][1] == runs[2][1]


def test_own_decoder_serves_any_encoder(tmp_path):
    inputs = keras.Input((8,))
    encoder = keras.Model(inputs, L.Concatenate()([L.Dense(2)(inputs), L.Dense(3)(inputs)]))
    decoder = keras.Sequential([keras.Input((5,)), L.Dense(8)])
    model = pretrain_autoencoder(encoder, rows(), decoder, epochs=1, verbose=0)
    model.save(tmp_path / "autoencoder.keras")
    loaded = keras.models.load_model(tmp_path / "autoencoder.keras")
    got, want = (m.evaluate(rows(), rows(), verbose=0) for m in (loaded, model))
    assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (np.arange(64) % 10, {}, "look like labels"),
        ((rows(), np.arange(64)), {}, "learns without labels"),
        (np.full((64, 8), np.nan), {}, "NaN or infinite"),
        (rows(features=7), {}, "needs x of shape"),
        (rows(20), {}, "batch_size from 1 to the number of rows, 20"),
        (np.array([["a"] * 8] * 64), {}, "needs numbers"),
        (rows(), {"loss": "binary_crossentropy"}, r"x in \[0, 1\]"),
        (rows(), {"loss": "hinge"}, "needs loss to be one of"),
        (rows(), {"decoder": "own"}, "needs decoder to be"),
        (rows(), {"noise": MaskingNoise(patch=(2, 2))}, "one patch size per axis"),
        (rows(), {"noise": lambda x, rng: (x[:, :3], None)}, "noise that returns rows"),
        (rows(), {"greedy": True, "validation_data": (1, 2)}, "cannot use validation_data"),
        (rows(), {"decoder": keras.Sequential([keras.Input((4,)), L.Dense(7)])}, "needs a decoder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_changed(x, arguments, message):
    encoder = dense_encoder(4)
    before = encoder.get_weights()
    with pytest.raises(ValueError, match=message):
        pretrain_autoencoder(encoder, x, **arguments)
    for a, b in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("decoder", ["mirrored", "tied"])
def test_nested_models_and_layers_of_layers_are_mirrored(decoder):
    class Block(L.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.dense = L.Dense(5, "relu", name="dense")
            self.dropout = L.Dropout(0.1)

        def call(self, inputs, training=None):
            return self.dropout(self.dense(inputs), training=training)

    nested = keras.Sequential([keras.Input((5,)), L.Dense(3, name="dense")], name="nested")
    encoder = keras.Sequential([keras.Input((8,)), Block(), nested])
    whole = pretrain_autoencoder(encoder, rows(), decoder, epochs=1, seed=0, verbose=0)
    names = [layer.name for layer in whole.layers[-1].layers[1:]]
    assert names == ["mirrored_nested_dense", "mirrored_block_dense"]
    assert whole.output_shape == (None, 8)


def test_an_encoder_that_cannot_learn_or_be_mirrored_is_refused():
    with pytest.raises(TypeError, match=r"needs a keras\.Model"):
        pretrain_autoencoder("encoder", rows())
    with pytest.raises(ValueError, match="without trainable weights"):
        pretrain_autoencoder(keras.Sequential([keras.Input((8,)), L.ReLU()]), rows())
    with pytest.raises(ValueError, match="without weights"):
        pretrain_autoencoder(keras.Sequential([L.Dense(3)]), rows())
    inputs = keras.Input((8,))
    branched = keras.Model(inputs, L.Add()([L.Dense(8)(inputs), inputs]))
    with pytest.raises(ValueError, match="that are a chain"):
        pretrain_autoencoder(branched, rows())
    embedding = keras.Sequential([keras.Input((8,)), L.Embedding(4, 2), L.Flatten(), L.Dense(3)])
    wrapped = keras.Sequential([keras.Input((8,)), L.SpectralNormalization(L.Dense(3)), L.Dense(2)])
    for encoder in (embedding, wrapped):
        with pytest.raises(ValueError, match="knows the mirror of"):
            pretrain_autoencoder(encoder, rows())
