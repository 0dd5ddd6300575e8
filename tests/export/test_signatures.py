"""What was exported is called as what `model.export` writes, by names of one's own and in parts."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastools.export import export_savedmodel

pytestmark = pytest.mark.tensorflow


def load(path):
    import tensorflow as tf

    return tf.saved_model.load(str(path))


def same(got, want):
    keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)


a, b = (np.random.default_rng(i).normal(size=(2, 3)).astype("float32") for i in range(2))


@pytest.fixture
def net():
    x = keras.Input((3,), name="x")
    y = layers.BatchNormalization()(layers.Dense(4, name="embedding")(x))
    return keras.Model(x, layers.Dense(2, name="scores")(y), name="net")


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("kind", ["one", "list", "dictionary", "nested"])
def test_serve_takes_and_returns_what_the_model_does(tmp_path, kind, freeze):
    p, q = keras.Input((3,), name="p"), keras.Input((3,), name="q")
    y = layers.Dense(2)(p if kind == "one" else layers.Add()([p, q]))
    given, taken, made = {
        "one": (a, p, y),
        "list": ([a, b], [p, q], [y, y + 1.0]),
        "dictionary": ({"q": b, "p": a}, {"q": q, "p": p}, {"y": y}),
        "nested": ([a, {"q": b}], [p, {"q": q}], {"y": [y, y + 1.0]}),
    }[kind]
    model = keras.Model(taken, made)
    export_savedmodel(model, tmp_path, freeze=freeze)
    same(load(tmp_path / "1").serve(given), model(given))
    same(layers.TFSMLayer(str(tmp_path / "1"))(given), model(given))


def test_the_signature_serve_has_the_names_of_keras(net, tmp_path):
    export_savedmodel(net, tmp_path / "ours")
    net.export(tmp_path / "keras", verbose=False)
    ours, plain = load(tmp_path / "ours/1"), load(tmp_path / "keras")
    for name in ("serve", "serving_default"):
        assert list(plain.signatures[name].structured_outputs) == ["output_0"]
    assert list(ours.signatures["serve"].structured_outputs) == ["output_0"]
    assert list(ours.signatures["serving_default"].structured_outputs) == ["scores"]
    assert list(ours.signatures["serve"].structured_input_signature[1]) == ["x"]


def test_outputs_have_the_names_that_are_asked_for(net, tmp_path):
    report = export_savedmodel(net, tmp_path, output_names=["output_0"])
    assert list(report.outputs) == ["output_0"]
    same(load(tmp_path / "1").signatures["serving_default"](x=a)["output_0"], net(a))
    for wrong in (["y", "z"], [], ["y", "y"]):
        with pytest.raises(ValueError, match="needs output_names to hold 1 different names"):
            export_savedmodel(net, tmp_path, output_names=wrong)


@pytest.mark.parametrize("freeze", [True, False])
def test_further_signatures_are_inner_layers_or_models(net, tmp_path, freeze):
    double = keras.Sequential([keras.Input((3,), name="half"), layers.Rescaling(2.0)])
    inner = keras.Model(net.input, net.get_layer("embedding").output)
    report = export_savedmodel(
        net,
        tmp_path,
        freeze=freeze,
        preprocessing=double,
        signatures={"embed": "embedding", "raw": net, "inner": inner},
    )
    loaded = load(tmp_path / "1").signatures
    same(loaded["serving_default"](half=a)["scores"], net(2 * a))
    same(loaded["embed"](half=a)["embedding"], inner(2 * a))
    same(loaded["raw"](x=a)["scores"], net(a))
    same(loaded["inner"](x=a)["embedding"], inner(a))
    assert report.signatures["embed"] == {"embedding": ("float32", (None, 4))}
    assert "signature embed" in str(report)


def test_wrong_signatures_are_named(net, tmp_path):
    with pytest.raises(ValueError, match=r"the name of a layer .* Its layers are embedding, .*"):
        export_savedmodel(net, tmp_path / "m", signatures={"embed": "middle"})
    for name in ("serve", "serving_default", "not an identifier"):
        with pytest.raises(ValueError, match="needs signatures to be named by identifiers"):
            export_savedmodel(net, tmp_path / "m", signatures={name: "embedding"})
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export_savedmodel(net, tmp_path / "m", signatures={"embed": 3})
    assert not (tmp_path / "m").exists()


def test_a_path_that_is_a_version_is_taken_as_it_is(net, tmp_path):
    report = export_savedmodel(net, tmp_path / "net" / "7")
    assert (report.version, report.path) == (7, str(tmp_path / "net" / "7"))
    assert (tmp_path / "net" / "7" / "saved_model.pb").exists()
    with pytest.raises(ValueError, match=r"version=7, but .* exists"):
        export_savedmodel(net, tmp_path / "net" / "7")
    assert export_savedmodel(net, tmp_path / "net").version == 8
    # A number that holds versions is no version.
    assert export_savedmodel(net, tmp_path / "2024", version=3).path.endswith("2024/3")
    assert export_savedmodel(net, tmp_path / "2024").path.endswith("2024/4")
