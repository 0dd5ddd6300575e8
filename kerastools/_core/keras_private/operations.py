"""The classes of what `keras.ops` functions leave in a graph, which Keras does not export."""

from typing import Any

from keras.src.ops import nn, numpy


def operation_class(name: str) -> Any:
    """Returns the class of an operation, such as `"Relu"`, or `None` if this Keras has none.

    A graph holds instances of it. To make one from the public function would count up the names
    that Keras gives to later operations.
    """
    return getattr(nn, name, None) or getattr(numpy, name, None)
