from math import inf

import numpy as np
import optax
import pytest

from kerastools.optimizers import Adam, Adamax
from tests.optimizers.trajectory import (
    error,
    gradients,
    how_to_run,
    largest_error,
    optax_weights,
    reference,
    run,
)

ORDERS = [1, 2, 8, 1e4, inf]


def adamax(p=inf, eta=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """The rule in NumPy; finite p in the logarithm, where nothing overflows."""

    def rule(theta, g, t, slots):
        slots["step"] = np.float64(t)
        slots["momentum"] = m = beta_1 * slots.get("momentum", 0.0) + (1 - beta_1) * g
        u = slots.get("norm", np.zeros_like(g))
        if p == inf:
            slots["norm"] = u = np.maximum(beta_2 * u, np.abs(g))
            root = u
        else:
            fade = -np.expm1(p * np.log(beta_2))
            with np.errstate(divide="ignore"):
                logs = p * np.log(beta_2 * u), np.log(fade) + p * np.log(np.abs(g))
            slots["norm"] = u = np.exp(np.logaddexp(*logs) / p)
            root = u / (-np.expm1(p * t * np.log(beta_2))) ** (1 / p)
        return theta - eta * m / (1 - beta_1**t) / (root + epsilon)

    return rule


@pytest.mark.parametrize("how", how_to_run())
@pytest.mark.parametrize("p", ORDERS)
def test_two_hundred_steps_equal_numpy(p, how):
    got = run(Adamax(0.01, norm_order=p), gradients(), how)
    assert largest_error(got, reference(adamax(p), gradients())) < 1e-5


@pytest.mark.tensorflow
@pytest.mark.parametrize("p", [2, inf])
def test_two_hundred_steps_equal_numpy_in_float64(p, float64):
    got = run(Adamax(0.01, norm_order=p), gradients(), dtype="float64")
    assert largest_error(got, reference(adamax(p), gradients())) < 1e-12


def test_agrees_with_optax():
    weights, _ = run(Adamax(0.01, epsilon=1e-20), gradients())
    twin = optax.adamax(0.01, eps=1e-20)
    # optax takes 1 − β₁ᵗ from a rounded power.
    assert error(weights, optax_weights(twin, gradients())) < 2e-5


def test_order_two_is_adam_with_the_square_of_beta_2():
    ours, _ = run(Adamax(0.01, beta_2=0.99, norm_order=2), gradients())
    adam = Adam(0.01, beta_2=0.99**2, epsilon_mode="outside")
    theirs, _ = run(adam, gradients())
    assert error(ours, theirs) < 1e-5


def test_the_norm_tends_to_the_maximum_as_the_order_grows():
    norms = {
        p: run(Adamax(0.002, norm_order=p), gradients())[1]["norm"] for p in (32, 1e3, 1e5, inf)
    }
    errors = [error(norms[p], norms[inf]) for p in (32, 1e3, 1e5)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_a_gradient_that_is_always_zero_moves_nothing():
    zero = [[0 * g for g in gs] for gs in gradients(3)]
    for p in (2, inf):
        weights, slots = run(Adamax(0.01, norm_order=p), zero)
        assert all(np.isfinite(w).all() for w in weights)
        assert all((u == 0).all() for u in slots["norm"])


@pytest.mark.parametrize("p", [0.5, float("nan")])
def test_an_order_below_one_is_refused(p):
    with pytest.raises(ValueError, match="norm_order to be at least 1"):
        Adamax(norm_order=p)
