"""These fail loudly where a new Keras moves the private parts that reading a graph needs."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools._core.graph.calls import Graph, has_graph, read_graph, sublayers
from kerastools._core.graph.rebuild import copy_operation, copy_state


def diamond():
    x = keras.Input((4,), name="x")
    a = layers.Dense(3, name="a")(x)
    b = layers.Dense(3, name="b")
    y = layers.Add(name="sum")([b(a), b(ops.tanh(a))])
    return keras.Model(x, {"y": y, "a": a})


def test_calls_come_in_an_order_in_which_they_can_be_computed():
    graph = Graph(diamond())
    known = {id(t) for t in graph.inputs}
    for call in graph.calls:
        assert all(id(t) in known for t in call.inputs)
        known |= {id(t) for t in call.outputs}
    assert all(id(t) in known for t in graph.outputs)
    assert len(graph.calls) == 5
    assert graph.calls[-1].operation.name == "sum"
    assert [layer.name for layer in graph.input_layers] == ["x"]


def test_producers_consumers_and_outputs():
    graph = Graph(diamond())
    (a,) = [call for call in graph.calls if call.operation.name == "a"]
    assert graph.producer(graph.inputs[0]) is None
    assert graph.producer(a.outputs[0]) is a
    assert len(graph.consumers(a.outputs[0])) == 2
    assert graph.is_output(a.outputs[0])
    assert not graph.is_output(graph.inputs[0])
    assert set(graph.output_structure) == {"y", "a"}


def test_a_tensor_passed_twice_has_two_consumers():
    x = keras.Input((4,))
    y = layers.Dense(2)(x)
    graph = Graph(keras.Model(x, layers.Add()([y, y])))
    assert len(graph.consumers(y)) == 2


def test_calls_outside_of_the_model_are_not_read():
    x = keras.Input((4,))
    dense = layers.Dense(2)
    y = dense(x)
    dense(keras.Input((4,)))
    layers.ReLU()(y)
    assert [call.operation for call in Graph(keras.Model(x, y)).calls] == [dense]


def test_sequential_model_reads_like_the_functional_one():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2), layers.ReLU()])
    assert [call.operation for call in Graph(model).calls] == model.layers
    assert Graph(model).input_structure is model.inputs[0]


def test_arguments_and_their_replacement():
    x = keras.Input((4,))
    y = layers.Dropout(0.5)(x, training=True)
    (call,) = Graph(keras.Model(x, y)).calls
    assert call.argument("training") is True
    assert call.argument("mask") is None
    args, kwargs = call.filled_in({id(x): 7})
    assert args == (7,)
    assert kwargs["training"] is True


def test_a_travelling_mask_is_told_from_an_explicit_one():
    x, mask = keras.Input((5, 3)), keras.Input((5,), dtype="bool")
    travelling = layers.LSTM(2, name="t")(layers.Masking()(x))
    explicit = layers.LSTM(2, name="e")(x, mask=mask)
    graph = Graph(keras.Model([x, mask], [travelling, explicit]))
    found = {call.operation.name: call.has_explicit_mask for call in graph.calls}
    assert not found["t"]
    assert found["e"]


class Doubled(keras.Model):
    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


def test_which_models_have_a_graph():
    x = keras.Input((3,))
    y = layers.Dense(2)(x)
    assert has_graph(keras.Model(x, y))
    assert has_graph(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
    assert not has_graph(keras.Sequential([layers.Dense(2)]))
    assert not has_graph(layers.Dense(2))
    assert not has_graph(Doubled(x, y))
    with pytest.raises(ValueError, match=r"try_it needs .* its own call"):
        read_graph(Doubled(x, y), "try_it")


def test_sublayers_come_parents_first_and_once():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d")], name="inner")
    outer = keras.Sequential([keras.Input((3,)), inner], name="outer")
    names = [layer.name for layer in sublayers(outer)]
    assert names.index("outer") < names.index("inner") < names.index("d")
    assert names.count("d") == 1


def test_copied_operation_shares_no_records_of_calls():
    x = keras.Input((4,))
    model = keras.Model(x, ops.softmax(x, axis=-1))
    (call,) = Graph(model).calls
    twin = copy_operation(call.operation, "test")
    before = len(call.operation._inbound_nodes)
    twin(keras.Input((2,)))
    assert len(call.operation._inbound_nodes) == before
    assert twin.axis == call.operation.axis


def built_twin(layer, shape):
    layer(keras.Input(shape))
    twin = copy_operation(layer, "test")
    twin(keras.Input(shape))
    return twin


def test_state_of_layers_inside_of_layers_is_copied():
    layer = layers.Bidirectional(layers.LSTM(2, dropout=0.5, seed=3))
    twin = built_twin(layer, (5, 3))
    layer.backward_layer.trainable = False
    layer.variables[-1].assign(np.array(layer.variables[-1]) + 1)
    copy_state(layer, twin, "test")
    assert not twin.backward_layer.trainable
    assert twin.forward_layer.trainable
    for v, w in zip(layer.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(v), ops.convert_to_numpy(w))
        assert v.trainable == w.trainable


def test_lora_weights_are_copied_apart_from_the_kernel():
    layer = layers.Dense(3)
    layer(keras.Input((4,)))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones((2, 3)))
    twin = built_twin(layer, (4,))
    copy_state(layer, twin, "test")
    for v, w in zip(layer.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(v), ops.convert_to_numpy(w))


def test_statistics_that_a_layer_finalises_are_copied():
    layer = layers.Normalization()
    layer.adapt(np.array([[1.0], [5.0]]))
    twin = copy_operation(layer, "test")
    twin(keras.Input((1,)))
    copy_state(layer, twin, "test")
    x = np.array([[9.0]])
    np.testing.assert_array_equal(ops.convert_to_numpy(twin(x)), ops.convert_to_numpy(layer(x)))


@pytest.mark.tensorflow
def test_vocabularies_are_copied():
    layer = layers.StringLookup()
    layer.adapt(["b", "a", "b"])
    twin = copy_operation(layer, "test")
    twin(keras.Input((1,), dtype="string"))
    copy_state(layer, twin, "test")
    assert twin.get_vocabulary() == layer.get_vocabulary() == ["[UNK]", "b", "a"]


class Forgetful(layers.Layer):
    """A layer whose configuration leaves its size out."""

    def __init__(self, units=1, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x):
        return x @ self.w

    def get_config(self):
        return super().get_config()


def test_a_layer_whose_config_is_incomplete_is_named():
    layer = Forgetful(3, name="f")
    twin = built_twin(layer, (4,))
    with pytest.raises(ValueError, match=r'could not copy layer "f" of type Forgetful'):
        copy_state(layer, twin, "test")
