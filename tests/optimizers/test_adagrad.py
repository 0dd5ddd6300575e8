import numpy as np
import optax
import pytest

from kerastools.optimizers import Adagrad
from tests.optimizers.trajectory import (
    error,
    gradients,
    how_to_run,
    largest_error,
    optax_weights,
    reference,
    run,
)


def adagrad(eta=0.1, epsilon=1e-7, start=0.1):
    """The rule in NumPy."""

    def rule(theta, g, t, slots):
        slots["accumulator"] = total = slots.get("accumulator", start) + g**2
        return theta - eta * g / np.sqrt(total + epsilon)

    return rule


@pytest.mark.parametrize("how", how_to_run())
def test_two_hundred_steps_equal_numpy(how):
    got = run(Adagrad(0.1), gradients(), how)
    assert largest_error(got, reference(adagrad(), gradients())) < 1e-5


@pytest.mark.tensorflow
def test_two_hundred_steps_equal_numpy_in_float64(float64):
    got = run(Adagrad(0.1), gradients(), dtype="float64")
    assert largest_error(got, reference(adagrad(), gradients())) < 1e-12


def test_agrees_with_optax():
    weights, _ = run(Adagrad(0.1, 0.0, epsilon=1e-6), gradients())
    twin = optax.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-6)
    assert error(weights, optax_weights(twin, gradients())) < 1e-5


def test_numbers_below_zero_are_refused():
    with pytest.raises(ValueError, match=r"Adagrad needs epsilon to be a number in \[0, inf\)"):
        Adagrad(epsilon=-1.0)
    with pytest.raises(ValueError, match="initial_accumulator_value=-1"):
        Adagrad(initial_accumulator_value=-1)
