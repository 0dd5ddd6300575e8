"""Classes that stand in a model and that Keras does not export.

A cell inside a convolutional LSTM layer, and what `keras.ops` functions leave in a graph. To make
one from the public class or function would count up the names of later layers, and draw a seed.
"""

from typing import Any

from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.ops import nn, numpy

__all__ = ["ConvLSTMCell", "operation_class"]


def operation_class(name: str) -> Any:
    """Returns the class of an operation, such as `"Relu"`, or `None` if this Keras has none."""
    return getattr(nn, name, None) or getattr(numpy, name, None)
