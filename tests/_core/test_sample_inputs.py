"""Rows to try a model with: those given, as tensors, or random ones of the right kind."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastools._core.graph.calls import Graph
from kerastools._core.sample_inputs import sample_inputs, state_kept


def graph():
    a = keras.Input((None, 2), name="a")
    b = keras.Input((3,), name="b", dtype="int32")
    c = keras.Input((3,), name="c", dtype="uint8")
    sums = [keras.ops.sum(keras.ops.cast(t, "float32"), axis=-1) for t in (b, c)]
    return Graph(keras.Model([a, b, c], layers.Add()([*sums, keras.ops.sum(a, axis=(1, 2))])))


def rows_for(*parts, shape=(4,)):
    model = keras.Sequential([keras.Input(shape), *parts])
    return keras.ops.convert_to_numpy(sample_inputs(Graph(model), None, "test"))


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


def test_open_sizes_grow_until_the_model_works():
    assert rows_for(layers.Conv1D(2, 41), shape=(None, 4)).shape == (3, 64, 4)
    assert rows_for(layers.Reshape((1,)), shape=(None,)).shape == (3, 1)


def test_numbers_are_positive_where_normal_ones_give_nan():
    rows = rows_for(layers.Lambda(keras.ops.log))
    assert (rows > 0).all()


def test_numbers_have_the_statistics_of_the_first_normalization():
    mean, variance = np.array([60.0, -5.0, 0.0, 1e4]), np.array([4.0, 0.01, 1.0, 100.0])
    for first in (
        layers.Normalization(mean=mean, variance=variance),
        keras.Sequential([keras.Input((4,)), layers.BatchNormalization()]),
    ):
        if isinstance(first, keras.Sequential):
            first.layers[0].moving_mean.assign(mean)
            first.layers[0].moving_variance.assign(variance)
        rows = rows_for(layers.Rescaling(0.5, 2.0), first, layers.Dense(1))
        z = ((0.5 * rows + 2.0) - mean) / np.sqrt(variance)
        np.testing.assert_allclose(z, np.random.default_rng(0).normal(size=(3, 4)), atol=0.02)


def test_the_error_names_sample_and_what_the_model_said():
    with pytest.raises(ValueError, match=r"test needs sample=.* NaN or infinity"):
        rows_for(layers.Lambda(lambda x: x * np.nan))
    with pytest.raises(ValueError, match=r"test needs sample=.* the model fails: .*Conv1D"):
        rows_for(layers.Conv1D(2, 2000), shape=(None, 4))


class Counter(layers.Layer):
    """Counts its calls."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def test_state_is_what_it_was():
    model = keras.Sequential([keras.Input((2,)), Counter()])
    with state_kept(model):
        model(np.ones((1, 2)))
        assert float(model.layers[0].calls) == 1
    assert float(model.layers[0].calls) == 0
