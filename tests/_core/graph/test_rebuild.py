import keras
import numpy as np
from keras import layers, ops

from kerastools._core.graph.rebuild import rebuild


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
