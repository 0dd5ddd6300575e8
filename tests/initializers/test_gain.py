import math

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.initializers import gain, stability

CLOSED = {"linear": 1.0, "relu": math.sqrt(2), "selu": 1.0}


@pytest.mark.parametrize(("name", "value"), CLOSED.items())
def test_closed_forms_are_met(name, value):
    assert gain(name) == pytest.approx(value, rel=1e-6)


def test_the_slope_of_a_leaky_rectifier_is_counted():
    # E[φ²] = (1 + α²) / 2, He et al. 2015, section 2.2.
    for slope in (0.0, 0.1, 0.3):
        layer = layers.LeakyReLU(negative_slope=slope)
        assert gain(layer) == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-6)


def definitions():
    erf = np.vectorize(math.erf)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    return {
        "tanh": np.tanh,
        "sigmoid": sigmoid,
        "gelu": lambda z: z * (1 + erf(z / math.sqrt(2))) / 2,
        "silu": lambda z: z * sigmoid(z),
        "mish": lambda z: z * np.tanh(np.log1p(np.exp(z))),
        "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        "softplus": lambda z: np.log1p(np.exp(z)),
    }


@pytest.mark.parametrize("name", definitions())
def test_quadrature_equals_a_fine_sum_over_the_definition(name):
    z = np.linspace(-14, 14, 400_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    moment = np.sum(definitions()[name](z) ** 2 * density) * (z[1] - z[0])
    function = (lambda x: keras.activations.gelu(x, approximate=False)) if name == "gelu" else name
    assert gain(function) == pytest.approx(1 / math.sqrt(moment), rel=2e-6)


def test_none_is_linear_and_activation_layers_are_their_functions():
    assert gain(None) == gain("linear")
    assert gain(layers.Activation("tanh")) == pytest.approx(gain("tanh"))


def test_what_has_no_gain_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        gain(lambda z: z * 0)
    with pytest.raises(ValueError, match="above 0"):
        gain(lambda z: z / 0.0)
    with pytest.raises(ValueError, match="element by element"):
        gain(lambda z: ops.sum(z))


def test_smooth_rectifiers_leave_their_fixed_point_and_bounded_ones_return():
    # d ln q′ / d ln q at q = 1, from moments that closed forms give.
    assert stability("linear") == pytest.approx(1.0, abs=1e-4)
    assert stability("relu") == pytest.approx(1.0, abs=1e-4)
    assert [round(stability(n), 2) for n in ("gelu", "silu", "mish")] == [1.14, 1.17, 1.08]
    assert stability("tanh") < 0.7
    assert stability("selu") < 1
    # φ = z²: E[φ²] = 3q², whose logarithm has slope 2.
    assert stability(lambda z: z**2) == pytest.approx(2.0, abs=1e-3)
