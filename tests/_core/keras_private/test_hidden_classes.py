"""These fail when Keras moves classes that it does not export."""

import keras
import pytest

from kerastools._core.keras_private.hidden_classes import ConvLSTMCell, operation_class


@pytest.mark.parametrize(("name", "function"), [("Relu", "relu"), ("Tanh", "tanh")])
def test_operation_class_is_that_of_the_public_function(name, function):
    inputs = keras.Input((4,))
    graph = keras.Function(inputs, getattr(keras.ops, function)(inputs))
    assert operation_class(name) in {type(operation) for operation in graph.operations}


def test_unknown_operations_have_no_class():
    assert operation_class("NoSuchOperation") is None


def test_cell_of_a_convolutional_lstm_is_of_the_class():
    assert type(keras.layers.ConvLSTM1D(1, 1).cell) is ConvLSTMCell
