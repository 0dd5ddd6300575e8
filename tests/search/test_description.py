import functools
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.compiled_model import count_names_anew
from kerastools.constraints import MaxNorm
from kerastools.layers import Dropout
from kerastools.optimizers import SGD, Adam
from kerastools.search._reuse.description import describe, difference

ExponentialDecay = keras.optimizers.schedules.ExponentialDecay

pytestmark = pytest.mark.tensorflow

FACTOR = 2.0


class Scale(keras.layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.hidden_factor = [factor, {"a": np.array([factor])}]

    def call(self, x):
        return x * self.hidden_factor[0]


def scaled(x, factor):
    return x * factor


def build(**changes):
    count_names_anew()
    c = {
        "units": 3,
        "rate": 0.1,
        "keras_rate": 0.1,
        "factor": 2.0,
        "partial": 2.0,
        "default": 2.0,
        "layer": 2.0,
        "l2": 0.01,
        "bound": 2.0,
        "activity": 0.01,
        "order": 1,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "beta": 0.9,
        "clipnorm": 1.0,
        "optimizer": SGD,
        "stddev": 0.1,
        "seed": 1,
        "trainable": True,
        "loss": "mse",
        "metrics": ("mae",),
    } | changes
    factor = c["factor"]
    inputs = keras.Input((4,))
    x = keras.layers.Dense(
        c["units"],
        kernel_initializer=keras.initializers.RandomNormal(stddev=c["stddev"], seed=c["seed"]),
        kernel_regularizer=keras.regularizers.L2(c["l2"]),
        kernel_constraint=MaxNorm(c["bound"]),
        activity_regularizer=keras.regularizers.L2(c["activity"]),
        trainable=c["trainable"],
    )(inputs)
    x = Dropout(c["rate"], seed=c["seed"])(x)
    x = keras.layers.Dropout(c["keras_rate"], seed=c["seed"])(x)
    x = keras.layers.Lambda(lambda x: x * factor)(x)
    x = keras.layers.Activation(functools.partial(scaled, factor=c["partial"]))(x)
    x = keras.layers.Lambda(lambda x, scale=c["default"]: x * scale)(x)
    x = Scale(c["layer"])(x)
    y = keras.layers.Dense(c["units"])(x)
    pair = [x, y][:: c["order"]]
    model = keras.Model(inputs, keras.layers.Subtract()(pair))
    if c["optimizer"] is SGD:
        optimizer = SGD(c["learning_rate"], c["momentum"], clipnorm=c["clipnorm"])
    else:
        optimizer = Adam(c["learning_rate"], c["beta"])
    model.compile(optimizer, c["loss"], metrics=list(c["metrics"]))
    return model


def test_two_builds_of_one_configuration_are_equal():
    assert difference(describe(build()), describe(build())) is None


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0.4},
        {"learning_rate": 0.01},
        {"momentum": 0.5},
        {"clipnorm": 0.1},
        {"stddev": 1.0},
        {"seed": 2},
        {"l2": 0.1},
        {"bound": 3.0},
    ],
)
def test_what_is_held_in_a_variable_makes_no_difference(change):
    assert difference(describe(build()), describe(build(**change))) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"units": 4}, "units is 4 and was 3"),
        ({"keras_rate": 0.2}, "dropout_1.rate is 0.2"),
        ({"factor": 3.0}, "lambda.function.factor is 3.0"),
        ({"partial": 3.0}, "factor is 3.0"),
        ({"default": 3.0}, "defaults.0 is 3.0"),
        ({"layer": 3.0}, "hidden_factor.0 is 3.0"),
        ({"activity": 0.1}, "activity_regularizer.l2 is 0.1"),
        ({"order": -1}, "call"),
        ({"clipnorm": None}, "optimizer.clipnorm is None"),
        ({"optimizer": Adam}, "optimizer is kerastools.optimizers._adam.Adam"),
        ({"learning_rate": ExponentialDecay(0.1, 5, 0.5)}, "optimizer.learning_rate is keras"),
        ({"learning_rate": lambda step: 0.1}, "optimizer.learning_rate is function"),
        ({"momentum": lambda step: 0.9}, "optimizer.momentum is function"),
        ({"trainable": False}, "dense.trainable is False"),
        ({"loss": "mae"}, "loss is 'mae'"),
        ({"loss": lambda a, b: keras.ops.mean(a - b)}, "loss is function"),
        ({"metrics": ()}, "metrics"),
    ],
)
def test_everything_else_does_and_is_named(change, named):
    change = difference(describe(build()), describe(build(**change)))
    assert named in str(change)


@pytest.mark.parametrize("chosen", [SGD, keras.optimizers.SGD])
def test_schedules_that_begin_alike_differ(chosen):
    def scheduled(decay):
        model = build()
        model.compile(chosen(ExponentialDecay(0.1, 5, decay)), "mse")
        return describe(model)

    assert difference(scheduled(0.5), scheduled(0.5)) is None
    assert "decay_rate is 0.9" in str(difference(scheduled(0.5), scheduled(0.9)))


def test_a_global_that_a_function_reads_makes_a_difference(monkeypatch):
    def lossy():
        return build(loss=lambda a, b: FACTOR * keras.ops.mean(a - b))

    before = describe(lossy())
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert "FACTOR is 3.0" in str(difference(before, describe(lossy())))


def test_training_makes_no_difference():
    model = build()
    before = describe(model)
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    assert difference(before, describe(model)) is None


def test_subclassed_models_are_described_by_their_attributes():
    class Own(keras.Model):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x) * self.factor

    def own(factor):
        count_names_anew()
        model = Own(factor)
        model.compile("sgd", "mse")
        model(np.ones((1, 3)))
        return describe(model)

    assert difference(own(1.0), own(1.0)) is None
    assert "factor is 2.0" in str(difference(own(1.0), own(2.0)))


def sliced(key):
    count_names_anew()
    inputs = keras.Input((4, 5))
    model = keras.Model(inputs, inputs[key])
    model.compile("sgd", "mse")
    return describe(model)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ((slice(None), -1), (slice(None), 0)),
        ((slice(None), slice(0, 3)), (slice(None), slice(0, 2))),
        ((..., 0), (..., 1)),
        ((slice(None), None), (slice(None), 0)),
    ],
)
def test_slices_are_described_by_what_they_cut_out(key, other):
    again = tuple(slice(k.start, k.stop, k.step) if isinstance(k, slice) else k for k in key)
    assert difference(sliced(key), sliced(again)) is None
    assert difference(sliced(key), sliced(other)) is not None


@pytest.mark.parametrize(
    "make",
    [range, lambda n: np.dtype(f"f{n}"), lambda n: Path(str(n)), Fraction, lambda n: slice(n)],
)
def test_objects_without_attributes_are_described_by_value(make):
    def holding(value):
        count_names_anew()
        layer = keras.layers.Lambda(lambda x: (x, value)[0], output_shape=(3,), name="held")
        model = keras.Sequential([keras.Input((3,)), layer], name="one")
        model.compile("sgd", "mse")
        return describe(model)

    assert difference(holding(make(4)), holding(make(4))) is None
    assert difference(holding(make(4)), holding(make(8))) is not None


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (keras.layers.Normalization, np.array([[1.0], [2.0], [4.0]])),
        (keras.layers.IntegerLookup, np.array([[1], [2], [4]])),
    ],
)
def test_what_a_layer_was_adapted_to_makes_a_difference(make, data):
    def prepared(factor):
        count_names_anew()
        layer = make()
        layer.adapt(data * factor)
        model = keras.Sequential([keras.Input((1,), dtype=data.dtype), layer])
        model.compile("sgd", "mse")
        return describe(model)

    assert difference(prepared(1), prepared(1)) is None
    assert difference(prepared(1), prepared(3)) is not None
