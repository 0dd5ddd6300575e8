"""Rows to try a model with: those given, as tensors, or random ones of the right kind."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastools._core.graph.calls import Graph
from kerastools._core.sample_inputs import sample_inputs


def graph():
    a = keras.Input((None, 2), name="a")
    b = keras.Input((3,), name="b", dtype="int32")
    c = keras.Input((3,), name="c", dtype="uint8")
    sums = [keras.ops.sum(keras.ops.cast(t, "float32"), axis=-1) for t in (b, c)]
    return Graph(keras.Model([a, b, c], layers.Add()([*sums, keras.ops.sum(a, axis=(1, 2))])))


def test_random_rows_fit_each_input():
    a, b, c = map(keras.ops.convert_to_numpy, sample_inputs(graph(), None, "test"))
    assert a.shape == (3, 32, 2)
    assert a.dtype == "float32"
    assert set(b.ravel()) <= {0, 1}
    assert b.dtype == "int32"
    assert c.max() > 1
    assert c.dtype == "uint8"


def test_given_rows_are_taken_as_they_are():
    rows = [np.ones((1, 4, 2)), np.ones((1, 3)), np.ones((1, 3))]
    for got, want in zip(sample_inputs(graph(), rows, "test"), rows, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(got), want)


@pytest.mark.parametrize("rows", [[np.ones((1, 4, 2))], [np.ones((0, 4, 2))] * 3, "random"])
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(ValueError, match="test needs sample to be inputs as the model takes them"):
        sample_inputs(graph(), rows, "test")
