"""These fail when Keras moves what the graph of a model is read from."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools._core.keras_private.graph_nodes import (
    RECORDED_TRAINING_HOLDS,
    ConvLSTMCell,
    as_inputs,
    computes_its_graph,
    functional_part,
    layers_inside,
    maker_of,
    mask_of,
    operation_class,
    recorded_nodes,
    set_mask,
    shape_of_lambda,
    twin_of_function,
)


class Doubled(keras.Model):
    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


def test_models_with_a_graph():
    x = keras.Input((4,))
    y = layers.Dense(2)(x)
    model, sequential = keras.Model(x, y), keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert functional_part(model) is model
    assert functional_part(sequential).outputs[0] is sequential.outputs[0]
    assert functional_part(keras.Sequential([layers.Dense(2)])) is None
    assert functional_part(layers.Dense(2)) is None
    assert computes_its_graph(model)
    assert computes_its_graph(sequential)
    assert not computes_its_graph(Doubled(x, y))
    assert not computes_its_graph(layers.Dense(2))
    model.call = lambda x, training=None, mask=None: 2 * x
    assert not computes_its_graph(model)


def test_nodes_come_in_order_with_arguments_and_outputs():
    x = keras.Input((4,))
    dense = layers.Dense(4)
    hidden = dense(x)
    y = layers.Dropout(0.5)(ops.add(hidden, x), training=True)
    dense(y)  # Not in the model.
    first, second, third = recorded_nodes(keras.Model(x, y))
    assert first.operation is dense
    assert first.arguments.args == (x,)
    assert first.outputs[0] is hidden
    assert [*map(id, second.arguments.args)] == [id(hidden), id(x)]
    assert third.arguments.kwargs["training"] is True
    assert maker_of(hidden) is dense
    assert isinstance(maker_of(x), layers.InputLayer)
    assert maker_of(keras.KerasTensor((None, 4))) is None


def test_inputs_are_converted_as_a_call_does():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2)])
    (x,) = as_inputs(functional_part(model), np.arange(3))
    assert (x.shape, keras.backend.standardize_dtype(x.dtype)) == ((3, 1), "float32")


def test_masks_travel_with_tensors():
    x = layers.Embedding(5, 2, mask_zero=True)(np.array([[1, 0]]))
    np.testing.assert_array_equal(ops.convert_to_numpy(mask_of(x)), [[True, False]])
    y = ops.ones((1, 2, 3))
    assert mask_of(y) is None
    set_mask(y, mask_of(x))
    assert layers.Masking().compute_mask(y, None).shape == (1, 2)
    assert mask_of(layers.Dropout(0.5)(y)) is mask_of(y)


def test_layers_inside_of_layers():
    block = layers.Bidirectional(layers.LSTM(2))
    block.build((None, 3, 4))
    outer = [type(layer).__name__ for layer in layers_inside(block, recursive=False)]
    every = [type(layer).__name__ for layer in layers_inside(block)]
    assert outer == ["LSTM", "LSTM"]
    assert every.count("LSTMCell") == 2
    assert block not in layers_inside(block)


def test_a_function_has_a_twin_without_calls():
    x = keras.Input((4,))
    (node,) = recorded_nodes(keras.Model(x, ops.softmax(x, axis=-1)))
    twin = twin_of_function(node.operation)
    y = twin(keras.Input((2,)))
    assert maker_of(y) is twin
    assert twin.axis == -1
    assert recorded_nodes(keras.Model(x, ops.softmax(x)))[0] is not node


@pytest.mark.parametrize(("name", "function"), [("Relu", "relu"), ("Tanh", "tanh")])
def test_operation_class_is_that_of_the_public_function(name, function):
    inputs = keras.Input((4,))
    graph = keras.Function(inputs, getattr(keras.ops, function)(inputs))
    assert operation_class(name) in {type(operation) for operation in graph.operations}


def test_unknown_operations_have_no_class():
    assert operation_class("NoSuchOperation") is None


def test_cell_of_a_convolutional_lstm_is_of_the_class():
    assert type(keras.layers.ConvLSTM1D(1, 1).cell) is ConvLSTMCell


def test_the_shape_that_a_lambda_was_given():
    assert shape_of_lambda(layers.Lambda(lambda x: x, output_shape=(3,))) == (3,)


def test_whether_the_training_argument_that_a_graph_was_made_with_holds():
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dropout(0.5)(x, training=False))
    held = ops.convert_to_numpy(model(np.ones((8, 4)), training=True)) == 1
    assert held.all() == RECORDED_TRAINING_HOLDS
