import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from kerastools.initializers import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    VarianceScaling,
)

# SPEC of the schemes: σ² of the normal and r of the uniform one, from the fans.
SCHEMES = {
    GlorotNormal: lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    GlorotUniform: lambda fan_in, fan_out: 6 / (fan_in + fan_out) / 3,
    HeNormal: lambda fan_in, fan_out: 2 / fan_in,
    HeUniform: lambda fan_in, fan_out: 6 / fan_in / 3,
    LecunNormal: lambda fan_in, fan_out: 1 / fan_in,
    LecunUniform: lambda fan_in, fan_out: 3 / fan_in / 3,
}


def draw(initializer, shape, dtype="float32"):
    return ops.convert_to_numpy(initializer(shape, dtype=dtype))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("shape", [(300, 400), (3, 3, 40, 90)], ids=["Dense", "Conv2D"])
def test_variance_and_bounds_are_those_of_the_scheme(scheme, shape):
    w = draw(scheme(seed=3), shape).astype("float64")
    positions = math.prod(shape[:-2])
    variance = SCHEMES[scheme](positions * shape[-2], positions * shape[-1])
    # 108,000 draws or more: the relative standard error of a variance is below 0.5 %.
    assert np.mean(w**2) == pytest.approx(variance, rel=0.02)
    assert abs(w.mean()) < 4 * math.sqrt(variance / w.size)
    if "Uniform" in scheme.__name__:
        assert (
            0.999 * math.sqrt(3 * variance) < abs(w).max() <= math.sqrt(3 * variance) * (1 + 1e-6)
        )
    else:
        # Cut at 2 standard deviations before the correction by 0.8796.
        assert abs(w).max() <= 2 / 0.87962566103423978 * math.sqrt(variance) * (1 + 1e-6)
        assert abs(w).max() > 2.2 * math.sqrt(variance)


def test_untruncated_normal_has_tails():
    w = draw(VarianceScaling(1.0, "fan_in", "untruncated_normal", seed=1), (100, 1000))
    assert w.var() == pytest.approx(0.01, rel=0.02)
    assert abs(w).max() > 0.35


def test_modes_take_their_fan():
    for mode, n in [("fan_in", 50), ("fan_out", 200), ("fan_avg", 125)]:
        w = draw(VarianceScaling(3.0, mode, seed=1), (50, 200))
        assert w.var() == pytest.approx(3 / n, rel=0.05)


@pytest.mark.parametrize(
    ("axes", "shape", "fans"),
    [
        ({}, (30, 20), (30, 20)),
        ({}, (5, 8, 6), (40, 30)),
        ({"out_divisor": 4}, (3, 3, 8, 16), (72, 36)),
        ({"in_axis": (), "batch_axis": -2}, (3, 3, 64, 2), (9, 18)),
        ({"in_axis": -1, "out_axis": -2, "in_divisor": 4}, (4, 4, 3, 256), (1024, 48)),
        ({"in_axis": (0, 1), "out_axis": 2}, (8, 16, 32), (128, 32)),
        ({"in_axis": 1, "out_axis": 2, "batch_axis": 0}, (8, 16, 32), (16, 32)),
    ],
    ids=["Dense", "Conv1D", "grouped", "depthwise", "transposed", "heads", "experts"],
)
def test_fans_follow_the_named_axes(axes, shape, fans):
    assert VarianceScaling(**axes).fans(shape) == fans


def test_an_integer_seed_repeats_its_values():
    initializer = HeNormal(seed=4)
    np.testing.assert_array_equal(draw(initializer, (5, 6)), draw(initializer, (5, 6)))
    np.testing.assert_array_equal(draw(initializer, (5, 6)), draw(HeNormal(seed=4), (5, 6)))
    assert (draw(initializer, (5, 6)) != draw(HeNormal(seed=5), (5, 6))).any()


def test_layers_that_share_an_unseeded_instance_differ():
    shared = HeNormal()
    layers = [keras.layers.Dense(6, kernel_initializer=shared) for _ in range(2)]
    for layer in layers:
        layer.build((None, 5))
    a, b = (ops.convert_to_numpy(layer.kernel) for layer in layers)
    assert (a != b).all()
    # Keras gives both the same numbers.
    keras_shared = keras.initializers.HeNormal()
    np.testing.assert_array_equal(draw(keras_shared, (5, 6)), draw(keras_shared, (5, 6)))


def test_set_random_seed_repeats_unseeded_draws():
    draws = []
    for _ in range(2):
        keras.utils.set_random_seed(9)
        draws.append(draw(GlorotUniform(), (5, 6)))
    np.testing.assert_array_equal(*draws)


def test_a_seed_generator_draws_anew_and_is_saved():
    initializer = HeUniform(seed=keras.random.SeedGenerator(3))
    assert (draw(initializer, (5, 6)) != draw(initializer, (5, 6))).any()
    config = json.loads(json.dumps(keras.initializers.serialize(initializer)))
    twin = keras.initializers.deserialize(config)
    first = draw(HeUniform(seed=keras.random.SeedGenerator(3)), (5, 6))
    np.testing.assert_array_equal(draw(twin, (5, 6)), first)


def test_half_precision_keeps_the_variance():
    w = draw(HeNormal(seed=1), (256, 256), "float16")
    assert w.dtype == "float16"
    assert w.astype("float64").var() == pytest.approx(2 / 256, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "scale > 0"),
        ({"mode": "fan_up"}, "fan_avg"),
        ({"distribution": "cauchy"}, "uniform"),
        ({"seed": "one"}, "integer"),
        ({"in_divisor": 0}, "at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VarianceScaling(**arguments)


@pytest.mark.parametrize(
    ("axes", "shape"), [({}, (5,)), ({"batch_axis": -1}, (5, 6)), ({"in_axis": 3}, (5, 6))]
)
def test_a_kernel_without_the_named_axes_is_refused(axes, shape):
    with pytest.raises(ValueError, match="for_layer"):
        VarianceScaling(**axes)(shape)
