import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools._core.graph.calls import calls
from kerastools._core.graph.rebuild import open_layers, rebuild


def model_with_everything():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="in")], name="inner")
    shared = layers.Dense(4, name="shared")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = shared(inner(a)) + shared(b)
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model({"a": a, "b": b}, {"sum": x, "head": layers.Dense(2, name="head")(x)})


def test_nothing_changed_computes_the_same_with_layers_of_its_own():
    model = model_with_everything()
    model.get_layer("norm").trainable = False
    twin = rebuild(model, "test", lambda path, layer: None)
    rng = np.random.default_rng(1)
    x = {name: rng.normal(size=(3, 4)).astype("float32") for name in "ab"}
    for name, value in model(x).items():
        np.testing.assert_array_equal(
            ops.convert_to_numpy(value), ops.convert_to_numpy(twin(x)[name])
        )
    assert not {id(v) for v in model.variables} & {id(v) for v in twin.variables}
    trained = [[(v.name, v.shape) for v in m.trainable_variables] for m in (model, twin)]
    assert trained[0] == trained[1]


def test_layers_are_changed_left_out_and_put_between_by_their_path():
    asked = []

    def change(path, layer):
        asked.append(path)
        return (layers.Dense(4, activation="relu", name="in"), True) if path == "inner/in" else None

    def connect(call, layer, args, kwargs):
        if call.path == "norm":
            return args[0]
        if call.path == "head":
            args = (layers.Identity(name="between")(args[0]),)
        return layer(*args, **kwargs)

    model = model_with_everything()
    twin = rebuild(model, "test", change, connect)
    assert asked.count("shared") == 1
    assert twin.get_layer("inner").get_layer("in").activation.__name__ == "relu"
    names = [layer.name for layer in twin.layers]
    assert "between" in names
    assert "norm" not in names
    kernel = model.get_layer("inner").get_layer("in").kernel
    np.testing.assert_array_equal(twin.get_layer("inner").get_layer("in").kernel, kernel)


def masked_sequential():
    return keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(5, 3, mask_zero=True),
            layers.Bidirectional(layers.GRU(2, return_sequences=True)),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )


def test_a_masked_sequential_model_comes_back_as_one():
    model, x = masked_sequential(), np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    outer_in = keras.Input((4,), dtype="int32")
    outer = keras.Model(outer_in, layers.Dense(1)(model(outer_in)))
    for original in (model, outer):
        twin = rebuild(original, "test")
        np.testing.assert_array_equal(twin(x), original(x))
    assert isinstance(rebuild(model, "test"), keras.Sequential)
    assert isinstance(twin.layers[1], keras.Sequential)


def test_a_sequential_model_that_is_no_chain_any_more_comes_back_functional():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d"), layers.ReLU()])

    def connect(call, layer, args, kwargs):
        outputs = layer(*args, **kwargs)
        return layers.Add()([args[0], outputs]) if call.path == "d" else outputs

    twin = rebuild(model, "test", connect=connect)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(twin(x), ops.relu(x + model.layers[0](x)))


def test_a_sequential_model_with_a_layer_twice_keeps_both_calls():
    dense = layers.Dense(4)
    model = keras.Sequential([keras.Input((4,)), dense, layers.ReLU(), dense])
    x = np.ones((2, 4), "float32")
    twin = rebuild(model, "test")
    np.testing.assert_array_equal(twin(x), model(x))
    assert twin.count_params() == model.count_params()


def test_a_sequential_model_that_was_built_by_a_call_takes_other_batch_sizes():
    model = keras.Sequential([layers.Dense(4), layers.Reshape((2, 2)), layers.Flatten()])
    model(np.ones((3, 4), "float32"))
    x = np.ones((5, 4), "float32")
    np.testing.assert_array_equal(rebuild(model, "test")(x), model(x))


class Block(layers.Layer):
    """A convolution, a normalization and a function, as users write them."""

    def __init__(self, filters=4, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], self.filters))

    def call(self, x, training=None):
        return ops.relu(self.norm(self.conv(x), training=training))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


class WithAWeight(Block):
    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x, training=None):
        return super().call(x, training) * self.scale


class OfWeights(Block):
    def call(self, x, training=None):
        return super().call(x, training) + ops.sum(self.conv.kernel)


class OfValues(Block):
    def call(self, x, training=None):
        return super().call(x, training) + (0 if isinstance(x, keras.KerasTensor) else 1)


class Counting(Block):
    def call(self, x, training=None):
        self.norm.moving_mean.assign_add(ops.ones((self.filters,)))
        return super().call(x, training)


class Losing(Block):
    def call(self, x, training=None):
        self.add_loss(ops.convert_to_tensor(1.0))
        return super().call(x, training)


def two_blocks(cls):
    x = keras.Input((6, 6, 3))
    return keras.Model(x, layers.GlobalAveragePooling2D()(cls(name="b")(cls(name="a")(x))))


def test_composite_layers_open_to_what_is_inside_them():
    model = two_blocks(Block)
    opened = open_layers(model, lambda layer: isinstance(layer, Block))
    assert [call.path for call in calls(opened)][:4] == ["a", "a/conv", "a/norm", "a/relu"]
    assert {id(v) for v in opened.variables} == {id(v) for v in model.variables}
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(opened(x), model(x), rtol=1e-6)


@pytest.mark.parametrize("cls", [WithAWeight, OfWeights, OfValues, Counting, Losing])
def test_what_is_not_proved_stays_closed(cls):
    model = two_blocks(cls)
    assert open_layers(model, lambda layer: isinstance(layer, Block)) is model


def test_a_layer_that_is_called_twice_and_one_that_is_not_wanted_stay_closed():
    model = two_blocks(Block)
    assert open_layers(model, lambda layer: layer.name == "other") is model
    x, block = keras.Input((6, 6, 4)), Block()
    shared = keras.Model(x, block(block(x)))
    assert open_layers(shared, lambda layer: True) is shared
