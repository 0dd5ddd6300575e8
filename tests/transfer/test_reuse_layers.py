"""`reuse_layers`: the trunk computes what the source computed, and the source is left alone."""

import keras
import numpy as np
import pytest

from kerastools.transfer import reuse_layers

RNG = np.random.default_rng(0)


def branching():
    """Two inputs, a layer that is shared, a block that is nested, a keras.ops call, two outputs."""
    keras.utils.set_random_seed(1)
    x, z = keras.Input((6,), name="x"), keras.Input((4,), name="z")
    shared = keras.layers.Dense(6, "tanh", name="shared")
    first = shared(x)
    inner_in = keras.Input((6,))
    inner_1 = keras.layers.Dense(5, "relu", name="inner_1")(inner_in)
    inner_norm = keras.layers.BatchNormalization(name="inner_norm")(inner_1)
    inner_2 = keras.layers.Dense(6, name="inner_2")(inner_norm)
    block = keras.Model(inner_in, inner_2, name="block")
    middle = keras.ops.tanh(block(first)) + first
    second = shared(middle)
    joined = keras.layers.Concatenate(name="joined")([second, z])
    outputs = [keras.layers.Dense(3, name="classes")(joined), second]
    model = keras.Model([x, z], outputs, name="source")
    norm = block.get_layer("inner_norm")
    norm.set_weights([RNG.uniform(0.5, 2, w.shape) for w in norm.get_weights()])
    return model


def values_at(model, tensor, data):
    return keras.Model(model.inputs, tensor)(data)


@pytest.mark.parametrize("weights", ["copy", "shared"])
def test_the_trunk_computes_what_the_source_computed(weights):
    source = branching()
    x, z = RNG.normal(size=(7, 6)), RNG.normal(size=(7, 4))
    before = source.get_weights()
    trunk = reuse_layers(source, upto="joined", weights=weights)
    expected = values_at(source, source.get_layer("joined").output, [x, z])
    np.testing.assert_array_equal(trunk([x, z]), expected)
    for old, new in zip(before, source.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    ours = {id(v) for v in trunk.weights}
    assert len(ours & {id(v) for v in source.weights}) == (0 if weights == "copy" else len(ours))


def test_inputs_that_are_not_needed_are_left_out():
    source = branching()
    x = RNG.normal(size=(7, 6))
    trunk = reuse_layers(source, upto="block")
    assert trunk.input_shape == (None, 6)
    shared, block = source.get_layer("shared"), source.get_layer("block")
    np.testing.assert_array_equal(trunk(x), block(shared(x)))


@pytest.mark.parametrize("upto", ["block/inner_norm", "inner_norm"])
@pytest.mark.parametrize("weights", ["copy", "shared"])
def test_a_layer_inside_a_nested_model_can_be_the_last(upto, weights):
    source = branching()
    x = RNG.normal(size=(7, 6))
    trunk = reuse_layers(source, upto=upto, weights=weights)
    block, shared = source.get_layer("block"), source.get_layer("shared")
    part = keras.Model(block.inputs, block.get_layer("inner_norm").output)
    np.testing.assert_array_equal(trunk(x), part(shared(x)))
    assert trunk.output_shape == (None, 5)


def test_training_a_copy_leaves_the_source_alone_and_training_shared_layers_does_not():
    x, y = np.ones((8, 6), "float32"), np.zeros((8, 2), "float32")
    changed = {}
    for weights in ("copy", "shared"):
        source = branching()
        before = source.get_layer("shared").get_weights()[0]
        trunk = reuse_layers(source, upto="block", weights=weights)
        model = keras.Sequential([trunk, keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        model.fit(x, y, verbose=0)
        changed[weights] = not np.array_equal(before, source.get_layer("shared").get_weights()[0])
    assert changed == {"copy": False, "shared": True}


def test_a_sequential_model_whose_layers_were_used_elsewhere_is_read_in_its_own_graph():
    source = keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(4, "tanh", name=n) for n in "abc")]
    )
    keras.Sequential([keras.Input((4,)), *source.layers[:2], keras.layers.Dense(1)])
    trunk = reuse_layers(source, upto="b")
    x = RNG.normal(size=(3, 4))
    a, b = source.layers[:2]
    np.testing.assert_array_equal(trunk(x), b(a(x)))


def test_the_trunk_is_saved_and_loaded(tmp_path):
    trunk = reuse_layers(branching(), upto="inner_norm")
    trunk.save(tmp_path / "trunk.keras")
    x = RNG.normal(size=(7, 6))
    loaded = keras.saving.load_model(tmp_path / "trunk.keras")
    np.testing.assert_array_equal(loaded(x), trunk(x))


def test_flags_are_copied_and_layers_renamed():
    source = branching()
    source.get_layer("shared").trainable = False
    trunk = reuse_layers(source, upto="block", rename="trunk_{}", name="trunk")
    assert trunk.name == "trunk"
    assert trunk.get_layer("trunk_block") is not None
    assert not trunk.get_layer("trunk_shared").trainable
    assert source.get_layer("shared").name == "shared"


def test_a_layer_can_be_passed_itself():
    source = branching()
    trunk = reuse_layers(source, upto=source.get_layer("classes"))
    assert trunk.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"upto": "nothing"},
            "found no layer 'nothing' in model \"source\". It has .*block/inner_1",
        ),
        ({"upto": "shared"}, "called once.*2 calls"),
        ({"upto": "joined", "weights": "both"}, 'to be "copy" or "shared"'),
        ({"upto": "joined", "weights": "shared", "rename": "a_{}"}, "needs rename"),
        ({"upto": "joined", "rename": "a"}, "needs rename"),
        ({"upto": keras.layers.Dense(1, name="stranger")}, "found no layer 'stranger'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        reuse_layers(branching(), **arguments)


def test_models_without_a_graph_are_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="built"):
        reuse_layers(keras.Sequential([keras.layers.Dense(1)]), upto="dense")
    model = Subclassed()
    model.build((None, 2))
    with pytest.raises(ValueError, match="functional or Sequential"):
        reuse_layers(model, upto="dense")
