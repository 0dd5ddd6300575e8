"""What is exported is read back, in this process and in a fresh one without Keras, and compared."""

import doctest
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import kerastools
from kerastools import KerastoolsNotice
from kerastools.export import _export_savedmodel as module
from kerastools.export import _graph_writer, _ways, export_savedmodel

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def net():
    """A small network with mixed-sign γ, statistics far from 0 and 1, and layers of kerastools."""
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("silu"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(),
            kerastools.layers.Dropout(0.3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax", name="class"),
        ],
        name="net",
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [rng.uniform(-2, 2, w.shape) for w in layer.get_weights()[:3]]
                + [rng.uniform(0.05, 2, layer.moving_variance.shape)]
            )
    return model


def image(rows=4):
    return np.random.default_rng(1).normal(size=(rows, 12, 12, 3)).astype("float32")


def serve(directory, **inputs):
    import tensorflow as tf

    signature = tf.saved_model.load(str(directory)).signatures["serving_default"]
    return {name: y.numpy() for name, y in signature(**inputs).items()}


def names_of(directory):
    return sorted(os.listdir(directory)) if directory.exists() else None


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "variables"])
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as it is"])
def test_exported_model_computes_what_the_model_does(net, tmp_path, fold, freeze):
    report = export_savedmodel(net, tmp_path, fold=fold, freeze=freeze)
    got = serve(tmp_path / "1", image=image())
    want = keras.ops.convert_to_numpy(net(image(), training=False))
    np.testing.assert_allclose(got["class"], want, rtol=0, atol=1e-6)
    assert report.largest_difference < 1e-5
    assert report.frozen == freeze
    assert (report.fold is not None) == fold
    assert not fold or report.fold.num_folded == 2


def test_a_fresh_process_needs_tensorflow_only(net, tmp_path):
    export_savedmodel(net, tmp_path / "net")
    np.save(tmp_path / "x.npy", image(7))
    code = (
        "import sys, numpy as np\n"
        "sys.modules['keras'] = sys.modules['kerastools'] = None  # importing them fails\n"
        "import tensorflow as tf\n"
        "loaded = tf.saved_model.load('net/1', tags=['serve'])\n"
        "y = loaded.signatures['serving_default'](image=tf.constant(np.load('x.npy')))\n"
        "np.save('y.npy', y['class'].numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    want = keras.ops.convert_to_numpy(net(image(7), training=False))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), want, rtol=0, atol=1e-6)


def test_frozen_export_has_no_variables_and_half_the_size_of_keras_export(net, tmp_path):
    big = keras.Sequential([keras.Input((64,)), layers.Dense(512), layers.Dense(64)])
    report = export_savedmodel(big, tmp_path / "ours")
    big.export(tmp_path / "keras", verbose=False)
    plain = sum(f.stat().st_size for f in (tmp_path / "keras").rglob("*") if f.is_file())
    assert report.size_bytes < 0.55 * plain
    import tensorflow as tf

    loaded = tf.saved_model.load(str(tmp_path / "ours" / "1"))
    assert not loaded.signatures["serving_default"].captured_inputs


def test_folding_and_freezing_shrink_the_graph(net, tmp_path):
    whole = export_savedmodel(net, tmp_path, fold=False, freeze=False).num_nodes
    folded = export_savedmodel(net, tmp_path, freeze=False).num_nodes
    both = export_savedmodel(net, tmp_path).num_nodes
    assert both < folded < whole


def test_the_model_is_left_alone(net, tmp_path):
    config, weights = net.to_json(), net.get_weights()
    export_savedmodel(net, tmp_path)
    assert net.to_json() == config
    for a, b in zip(weights, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_dictionaries_name_inputs_and_outputs(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b", dtype="int32")
    x = layers.Concatenate()([layers.Dense(2)(a), keras.ops.cast(b, "float32")])
    outputs = {"sum": keras.ops.sum(x, axis=-1), "all": x}
    model = keras.Model({"b": b, "a": a}, outputs)
    report = export_savedmodel(model, tmp_path)
    assert report.inputs == {"a": ("float32", (None, 3)), "b": ("int32", (None, 4))}
    assert report.outputs == {"all": ("float32", (None, 6)), "sum": ("float32", (None,))}
    data = {"a": np.ones((2, 3), "float32"), "b": np.ones((2, 4), "int32")}
    got = serve(tmp_path / "1", **data)
    for name, want in model(data).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-6)


def test_lists_are_named_after_layers_as_identifiers_and_uniquely(tmp_path):
    inputs = [keras.Input((3,), name="2nd-input"), keras.Input((3,), name="_X")]
    split = layers.LSTM(2, return_state=True, name="lstm")
    _, h, c = split(keras.ops.stack(inputs, axis=1))
    report = export_savedmodel(keras.Model(inputs, [h, c]), tmp_path)
    assert list(report.inputs) == ["x2nd_input", "x_X"]
    assert list(report.outputs) == ["lstm", "lstm_1"]


def test_output_keeps_the_name_of_a_batch_norm_that_was_folded(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2), layers.BatchNormalization(name="scores")]
    )
    assert list(export_savedmodel(model, tmp_path).outputs) == ["scores"]


def test_batch_size_is_free_unless_the_model_fixes_it(net, tmp_path):
    export_savedmodel(net, tmp_path)
    for rows in (1, 9):
        assert serve(tmp_path / "1", image=image(rows))["class"].shape == (rows, 5)
    fixed = keras.Sequential([keras.Input(batch_shape=(2, 3), name="x"), layers.Dense(1)])
    assert export_savedmodel(fixed, tmp_path).inputs == {"x": ("float32", (2, 3))}


def test_sizes_that_are_open_stay_open(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, None, 3), name="x"), layers.Conv2D(2, 3, name="y")]
    )
    report = export_savedmodel(model, tmp_path)
    assert report.inputs["x"][1] == (None, None, None, 3)
    assert serve(tmp_path / "1", x=image()[:, :7, :9])["y"].shape == (4, 5, 7, 2)


def test_mixed_precision_and_recurrent_layers(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential(
        [
            keras.Input((6, 3)),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.GRU(4),
            layers.Dense(2, dtype="float32"),
        ]
    )
    report = export_savedmodel(model, tmp_path)
    assert report.frozen
    assert report.tolerance == 0.1


def test_text_goes_in_where_a_lookup_layer_reads_it(tmp_path):
    lookup = layers.StringLookup(vocabulary=["a", "b"])
    model = keras.Sequential(
        [
            keras.Input((2,), dtype="string", name="words"),
            lookup,
            layers.Embedding(3, 4),
            layers.Flatten(),
            layers.Dense(1, name="y"),
        ]
    )
    report = export_savedmodel(model, tmp_path)
    assert report.frozen
    words = np.array([["a", "b"], ["b", "zzz"]])
    import tensorflow as tf

    want = model(tf.constant(words))
    np.testing.assert_allclose(serve(tmp_path / "1", words=tf.constant(words))["y"], want)


class Noise(layers.Layer):
    """Draws again at every call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed_generator)


def test_a_model_that_changes_its_state_in_inference_keeps_variables(tmp_path):
    """With constants every request would meet the same noise."""
    model = keras.Sequential([keras.Input((20,), name="x"), Noise(name="y")])
    with pytest.warns(KerastoolsNotice, match="the model changes seed_generator.* in inference"):
        report = export_savedmodel(model, tmp_path)
    assert not report.frozen
    assert "in inference" in report.note
    assert "in inference" in str(report)
    import tensorflow as tf

    signature = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    draws = [signature(x=tf.zeros((1, 20)))["y"].numpy() for _ in range(2)]
    assert (draws[0] != draws[1]).any()


def test_weights_beyond_a_graph_stay_variables(net, tmp_path, monkeypatch):
    monkeypatch.setattr(_graph_writer, "_LARGEST_GRAPH", 100)
    with pytest.warns(KerastoolsNotice, match="which holds 2 GB"):
        report = export_savedmodel(net, tmp_path)
    assert not report.frozen
    assert report.fold.num_folded == 2


def test_versions_count_up(net, tmp_path):
    assert export_savedmodel(net, tmp_path / "m").version == 1
    assert export_savedmodel(net, tmp_path / "m", version=7).version == 7
    (tmp_path / "m" / "notes").mkdir()
    report = export_savedmodel(net, str(tmp_path / "m"))
    assert report.version == 8
    assert report.path == str(tmp_path / "m" / "8")
    assert names_of(tmp_path / "m") == ["1", "7", "8", "notes"]


def test_an_existing_version_is_replaced_only_when_asked(net, tmp_path):
    export_savedmodel(net, tmp_path, version=3)
    before = (tmp_path / "3" / "saved_model.pb").read_bytes()
    with pytest.raises(ValueError, match=r"version=3, but .* exists.*overwrite=True"):
        export_savedmodel(net, tmp_path, version=3)
    assert (tmp_path / "3" / "saved_model.pb").read_bytes() == before
    net.layers[-1].bias.assign(np.arange(5.0))
    export_savedmodel(net, tmp_path, version=3, overwrite=True)
    assert names_of(tmp_path) == ["3"]
    want = keras.ops.convert_to_numpy(net(image(), training=False))
    np.testing.assert_allclose(serve(tmp_path / "3", image=image())["class"], want, atol=1e-6)


def wrong_fold(model, return_report):
    folded, report = kerastools.folding.fold_batch_norm(model, return_report=True)
    folded.layers[-1].bias.assign(np.arange(5.0))
    return folded, report


def test_a_wrong_fold_is_found_and_the_model_written_without(net, tmp_path, monkeypatch):
    monkeypatch.setattr(_ways, "fold_batch_norm", wrong_fold)
    with pytest.warns(KerastoolsNotice, match=r'not folded: its output "class" differs'):
        report = export_savedmodel(net, tmp_path)
    assert report.fold is None
    assert report.frozen
    want = keras.ops.convert_to_numpy(net(image(), training=False))
    np.testing.assert_allclose(serve(tmp_path / "1", image=image())["class"], want, atol=1e-6)


@pytest.mark.parametrize(
    "last",
    [
        [layers.Dense(3, activation="softmax", name="last")],
        [layers.Dense(3), layers.Softmax()],
        [layers.Dense(3), layers.Activation("sigmoid")],
        [keras.Sequential([layers.Dense(3, activation="tanh")])],
    ],
    ids=["softmax", "Softmax", "Activation", "nested"],
)
def test_a_wrong_fold_is_found_where_outputs_saturate(tmp_path, monkeypatch, last):
    def spoilt(model, return_report):
        folded, report = kerastools.folding.fold_batch_norm(model, return_report=True)
        folded.layers[0].kernel.assign(1.05 * folded.layers[0].kernel)
        return folded, report

    first = layers.Dense(
        8, kernel_initializer=keras.initializers.RandomNormal(stddev=1e4), name="first"
    )
    model = keras.Sequential([keras.Input((4,)), first, layers.BatchNormalization(), *last])
    config = model.to_json()
    monkeypatch.setattr(_ways, "fold_batch_norm", spoilt)
    with pytest.warns(KerastoolsNotice, match="not folded: before its last activation, its output"):
        report = export_savedmodel(model, tmp_path)
    assert report.largest_difference < 1e-6
    assert model.to_json() == config


def test_what_is_wrong_in_every_way_leaves_nothing_behind(net, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "as_arrays", lambda named: {"class": np.full((3, 5), 7.0, "f")})
    with pytest.raises(ValueError, match=r'output "class" differs .* Nothing was written'):
        export_savedmodel(net, tmp_path / "new" / "net")
    assert names_of(tmp_path) == []


def test_an_interrupted_export_leaves_nothing_behind(net, tmp_path, monkeypatch):
    export_savedmodel(net, tmp_path)
    before = (tmp_path / "1" / "saved_model.pb").read_bytes()

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_graph", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_savedmodel(net, tmp_path, version=1, overwrite=True)
    assert names_of(tmp_path) == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_bytes() == before


def test_a_killed_export_leaves_no_version_and_the_next_clears_up(net, tmp_path):
    """Killed while it writes: a server that watches for numbers sees none."""
    code = (
        "import os, keras, signal\n"
        "from kerastools.export import _export_savedmodel as module\n"
        "module.largest_difference = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])\n"
        f"module.export_savedmodel(model, {str(tmp_path)!r})\n"
    )
    root = str(kerastools.__path__[0]) + "/.."
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
    assert done.returncode == -9
    (left,) = names_of(tmp_path)
    assert left.startswith(".1.partial-")
    export_savedmodel(net, tmp_path)
    assert names_of(tmp_path) == ["1"]


def test_comparison_on_given_rows(net, tmp_path):
    report = export_savedmodel(net, tmp_path, sample=image(2))
    assert report.largest_difference < 1e-5
    with pytest.raises(ValueError, match=r"shape \(2, 5\) in place of"):
        export_savedmodel(net, tmp_path, sample=np.zeros((2, 5)))
    with pytest.raises(ValueError, match="needs sample"):
        export_savedmodel(net, tmp_path, sample={"image": image(2)})
    assert names_of(tmp_path) == ["1"]


def test_report_prints_and_turns_into_plain_data(net, tmp_path):
    report = export_savedmodel(net, tmp_path)
    assert "2 folded, 0 kept" in str(report)
    assert "image: float32 (None, 12, 12, 3)" in str(report)
    plain = report.to_dict()
    assert plain["fold"]["num_folded"] == 2
    assert plain["inputs"] == {"image": ("float32", (None, 12, 12, 3))}
    assert plain["num_nodes"] > 5
    assert plain["size_bytes"] > 1000


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"version": 0}, "integer of 1 or more"),
        ({"version": "2"}, "integer of 1 or more"),
        ({"version": True}, "integer of 1 or more"),
        ({"path": __file__}, "which is a file"),
    ],
)
def test_wrong_arguments_are_named(net, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        export_savedmodel(net, **{"path": tmp_path / "m", **wrong})
    assert names_of(tmp_path) == []


def test_models_that_cannot_be_exported_are_refused(net, tmp_path):
    with pytest.raises(ValueError, match="needs a built model"):
        export_savedmodel(keras.Sequential([layers.Dense(2)]), tmp_path)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export_savedmodel(None, tmp_path)
    net.layers[0].kernel.assign(net.layers[0].kernel * np.nan)
    with pytest.raises(ValueError, match="NaN or infinity"):
        export_savedmodel(net, tmp_path)
    assert names_of(tmp_path) == []


def test_other_backends_are_told_what_to_do(net, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        export_savedmodel(net, tmp_path)


def test_the_example_of_the_docstring_runs():
    """Skipped as a doctest, because doctests run on other backends too."""
    text = export_savedmodel.__doc__.replace("# doctest: +SKIP", "")
    names = {"keras": keras, "export_savedmodel": export_savedmodel}
    example = doctest.DocTestParser().get_doctest(text, names, "example", None, None)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_preprocessing_and_postprocessing_wrapped_around_are_exported_with_it(net, tmp_path):
    pixels = keras.Input((None, None, 3), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / 255)(layers.Resizing(12, 12)(pixels))
    served = keras.Model(pixels, {"best": keras.ops.argmax(net(x), axis=-1), "all": net(x)})
    report = export_savedmodel(served, tmp_path)
    assert report.inputs == {"pixels": ("uint8", (None, None, None, 3))}
    assert report.fold.num_folded == 2
    data = np.random.default_rng(2).integers(0, 256, (2, 20, 30, 3)).astype("uint8")
    import tensorflow as tf

    got = serve(tmp_path / "1", pixels=tf.constant(data))
    want = served.predict(data, verbose=0)
    np.testing.assert_allclose(got["all"], want["all"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(got["best"], want["best"])


def pixel_model():
    """From images of bytes, of any size, to what the network takes."""
    return keras.Sequential(
        [
            keras.Input((None, None, 3), dtype="uint8", name="pixels"),
            layers.Resizing(12, 12),
            layers.Rescaling(1 / 255),
        ],
        name="pixels_in",
    )


def test_preprocessing_and_postprocessing_arguments_become_part_of_the_graph(net, tmp_path):
    data = np.random.default_rng(2).integers(0, 256, (2, 20, 30, 3)).astype("uint8")
    ready = keras.ops.convert_to_numpy(pixel_model()(data))
    want = keras.ops.convert_to_numpy(net(ready, training=False))
    report = export_savedmodel(
        net, tmp_path, preprocessing=pixel_model(), postprocessing=lambda y: -y
    )
    assert report.inputs == {"pixels": ("uint8", (None, None, None, 3))}
    assert report.outputs == {"class": ("float32", (None, 5))}
    assert report.fold.num_folded == 2
    got = serve(tmp_path / "1", pixels=data)
    # Two thirds of a level of 255: a resized image may round otherwise in a graph.
    np.testing.assert_allclose(got["class"], -want, rtol=0, atol=1e-2)
    named = {"postprocessing": lambda y: {"best": keras.ops.argmax(y, axis=-1), "all": y}}
    assert list(export_savedmodel(net, tmp_path, **named).outputs) == ["all", "best"]
    assert list(export_savedmodel(net, tmp_path, preprocessing=pixel_model()).outputs) == ["class"]


def test_preprocessing_that_does_not_fit_is_refused(net, tmp_path):
    flat = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="flat")
    with pytest.raises(ValueError, match=r'needs preprocessing .* Received "flat"'):
        export_savedmodel(net, tmp_path / "m", preprocessing=flat)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export_savedmodel(net, tmp_path / "m", preprocessing=lambda x: x)
    assert names_of(tmp_path) == []


def test_bfloat16_keeps_the_signature_and_prints_its_error(net, tmp_path):
    for fold in (True, False):
        report = export_savedmodel(net, tmp_path, dtype="bfloat16", fold=fold)
        assert report.outputs["class"][0] == "float32"
        assert 1e-5 < report.largest_difference <= report.tolerance == 0.1
        assert "bfloat16" in str(report)
    assert net.layers[0].compute_dtype == "float32"
    with pytest.raises(ValueError, match='None or "bfloat16"'):
        export_savedmodel(net, tmp_path, dtype="float8")


def test_bfloat16_does_not_round_what_a_normalization_takes(tmp_path):
    x = np.random.default_rng(0).normal(60, 1, (400, 8)).astype("float32")
    norm = layers.Normalization()
    norm.adapt(x)
    inner = layers.Dense(32, activation="relu"), layers.Dense(32, activation="relu")
    model = keras.Sequential([keras.Input((8,), name="x"), norm, *inner, layers.Dense(3)])
    want = keras.ops.convert_to_numpy(model(x))
    report = export_savedmodel(model, tmp_path, dtype="bfloat16")
    (got,) = serve(tmp_path / "1", x=x).values()
    difference = np.abs(got - want).max() / np.abs(want).max()
    assert 1e-4 < difference < min(3 * report.largest_difference, 0.02)


def test_latency_is_measured_against_keras_export_when_asked(tmp_path):
    a, b = keras.Input((3,), name="z-a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([a, b])))
    report = export_savedmodel(model, tmp_path, latency=(1, 4))
    assert set(report.latency) == {1, 4}
    assert all(0 < ms < 1000 for pair in report.latency.values() for ms in pair)
    assert report.plain_num_nodes > report.num_nodes
    assert report.plain_size_bytes > report.size_bytes
    assert "times as fast as model.export" in str(report)
    assert report.to_dict()["latency"] == report.latency
    with pytest.raises(ValueError, match="needs latency to hold batch sizes"):
        export_savedmodel(model, tmp_path, latency=(0,))
