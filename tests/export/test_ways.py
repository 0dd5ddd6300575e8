"""What Keras exports is exported, folded and frozen as far as it can be, and it is said why not."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from kerastools import KerastoolsNotice
from kerastools.export import export_savedmodel
from kerastools.export._ways import Way, ways

pytestmark = pytest.mark.tensorflow


def test_ways_do_less_and_less_until_keras_writes():
    asked = Way(fold=True, half=True, freeze=True)
    found = ways(asked, keras_too=True)
    assert found[0] == asked
    assert found[-2:] == [Way(), Way(own=False)]
    assert len(found) == len({*found}) == 9
    assert ways(Way(), keras_too=False) == [Way()]


def own(x):
    return keras.ops.relu(x) * 2


class NoConfig(layers.Layer):
    """Cannot be made again: get_config does not say `units`."""

    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def call(self, x):
        return self.dense(x)


class Counter(layers.Layer):
    """Adds how often it was called."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x + self.calls


class Unseeded(layers.Layer):
    """Draws from Keras's own generator, which is none of the model's variables."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)
        self.norm = layers.BatchNormalization()

    def call(self, inputs):
        return {"scores": self.norm(self.dense(inputs))}


def wrap(*parts, shape=(3, 4), **kwargs):
    inputs = keras.Input(shape, **kwargs)
    x = inputs
    for part in (layers.Dense(4), layers.BatchNormalization(), *parts):
        x = part(x)
    return keras.Model(inputs, x)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 3)))
    return model


def lora():
    dense = layers.Dense(4)
    model = wrap(dense)
    dense.enable_lora(2)
    return model


def quantized():
    model = wrap(layers.Dense(4))
    model.quantize("int8")
    return model


CASES = {
    "lambda activation": (lambda: wrap(layers.Dense(3, activation=lambda x: own(x))), "not folded"),
    "local function": (lambda: wrap(layers.Activation(own)), "not folded"),
    "no config": (lambda: wrap(NoConfig(3)), "not folded"),
    "wrapped lambda": (lambda: wrap(layers.TimeDistributed(layers.Lambda(own))), "not folded"),
    "stateful": (
        lambda: wrap(layers.LSTM(3, stateful=True), batch_size=2),
        "weights kept as variables",
    ),
    "counter": (lambda: wrap(Counter()), "weights kept as variables"),
    "unseeded": (lambda: wrap(Unseeded()), "weights kept as variables"),
    "subclassed": (subclassed, "not folded: .*subclass Subclassed"),
    "lora": (lora, None),
    "quantized": (quantized, None),
    "silu": (lambda: wrap(layers.GRU(3, activation="silu")), None),
}


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("case", CASES)
def test_what_keras_exports_is_exported_and_left_alone(case, tmp_path, recwarn):
    import tensorflow as tf

    make, note = CASES[case]
    model = make()
    before = [np.array(v) for v in model.variables]
    report = export_savedmodel(model, tmp_path)
    notices = [w for w in recwarn if issubclass(w.category, KerastoolsNotice)]
    if note is None:
        assert (report.note, notices) == (None, [])
    else:
        assert re.search(note, report.note)
        assert len(notices) == 1
    for v, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(v), old)
    assert report.largest_difference < 1e-5
    assert "random" not in (report.note or "")
    shape = next(iter(report.inputs.values()))[1]
    x = np.random.default_rng(3).normal(size=(2, *shape[1:])).astype("float32")
    loaded = tf.saved_model.load(report.path)
    got = loaded.serve(x)
    if case != "unseeded":
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, model(x, training=False)
        )


def test_strings_come_out(tmp_path):
    import tensorflow as tf

    inputs = keras.Input((4,), name="x")
    scores = layers.Dense(3)(layers.BatchNormalization()(inputs))
    lookup = layers.StringLookup(vocabulary=["a", "b", "c"], invert=True, num_oov_indices=0)
    best = keras.ops.argmax(scores, axis=-1)
    model = keras.Model(inputs, {"scores": scores, "label": lookup(best)})
    report = export_savedmodel(model, tmp_path)
    assert report.outputs["label"] == ("string", (None,))
    assert report.fold.num_folded == 1
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    got = tf.saved_model.load(report.path).signatures["serving_default"](x=tf.constant(x))
    assert list(got["label"].numpy()) == list(model(x)["label"].numpy())
    bare = keras.Model(inputs, scores)
    again = export_savedmodel(
        bare, tmp_path, postprocessing=lambda y: {"label": lookup(keras.ops.argmax(y, -1))}
    )
    assert again.outputs == {"label": ("string", (None,))}


def test_a_saved_model_inside_a_model_is_exported(tmp_path):
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    inner.export(tmp_path / "inner", verbose=False)
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2)(layers.TFSMLayer(str(tmp_path / "inner"))(x)))
    with pytest.warns(KerastoolsNotice, match="not folded"):
        report = export_savedmodel(model, tmp_path / "served")
    assert report.largest_difference < 1e-6


class Tables(layers.Layer):
    """Has a table in a list, which the graph of the model does not show."""

    def __init__(self, **kwargs):
        import tensorflow as tf

        super().__init__(**kwargs)
        values = tf.lookup.KeyValueTensorInitializer([0, 1], [5.0, 7.0], tf.int32, tf.float32)
        self.tables = [tf.lookup.StaticHashTable(values, -1.0)]

    def call(self, x):
        return self.tables[0].lookup(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, "float32")


def test_what_only_keras_can_write_keras_writes(tmp_path):
    import tensorflow as tf

    x = keras.Input((2,), dtype="int32", name="x")
    model = keras.Model(x, layers.Dense(2)(Tables()(x)))
    with pytest.warns(KerastoolsNotice, match=r"not folded, .*, written by model\.export"):
        report = export_savedmodel(model, tmp_path, warm_up=[1], latency=[1])
    assert report.inputs == {"x": ("int32", (None, 2))}
    assert report.outputs == {"output_0": ("float32", (None, 2))}
    rows = np.array([[0, 1], [1, 2]], "int32")
    loaded = tf.saved_model.load(report.path)
    np.testing.assert_allclose(loaded.serve(rows), model(rows), rtol=1e-6)


def test_subclassed_models_take_the_types_of_the_sample(tmp_path):
    class Embeds(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = layers.Embedding(10, 2)

        def call(self, inputs):
            return self.embed(inputs["ids"]) * inputs["scale"]

    model = Embeds()
    data = {"ids": np.array([[1], [9]]), "scale": np.ones((2, 1, 1), "float32")}
    with pytest.raises(ValueError, match="needs a built model"):
        export_savedmodel(model, tmp_path)
    model(data)
    with pytest.warns(KerastoolsNotice, match="not folded"):
        report = export_savedmodel(model, tmp_path, sample=data)
    assert report.inputs == {"ids": ("int64", (None, 1)), "scale": ("float32", (None, 1, 1))}
    assert list(report.outputs) == ["output_0"]


def test_names_beyond_ascii(tmp_path):
    for name in ("größe", "école", "输入", "_x", "1a"):
        x = keras.Input((4,), name=name)
        report = export_savedmodel(keras.Model(x, layers.Dense(2)(x)), tmp_path)
        (spelled,) = report.inputs
        assert spelled.isidentifier()
        assert spelled.isascii()
        assert not spelled.startswith("_")


def test_models_of_one_name_follow_each_other(tmp_path):
    def unnamed(*parts):
        return keras.Sequential(parts, name="sequential")

    model = unnamed(keras.Input((4,), name="x"), layers.Dense(2, name="dense"))
    before = unnamed(keras.Input((4,), name="x"), layers.Rescaling(0.5))
    after = unnamed(keras.Input((2,)), layers.Softmax())
    report = export_savedmodel(model, tmp_path, preprocessing=before, postprocessing=after)
    assert report.note is None
    assert list(report.outputs) == ["dense"]


def test_code_that_takes_no_symbolic_tensors_is_called_in_the_graph(tmp_path):
    import tensorflow as tf

    def two_best(y):
        return {"best": tf.math.top_k(tf.convert_to_tensor(y), 2).indices}

    model = wrap(layers.Dense(3, name="scores"))
    with pytest.warns(KerastoolsNotice, match="not folded"):
        report = export_savedmodel(model, tmp_path, postprocessing=two_best)
    assert report.frozen
    assert report.outputs == {"best": ("int32", (None, 3, 2))}
    with pytest.raises(ValueError, match="division by zero"):
        export_savedmodel(model, tmp_path / "m", postprocessing=lambda y: 1 / 0)
    assert not (tmp_path / "m").exists()
