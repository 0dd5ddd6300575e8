import keras
import numpy as np
import optax
import pytest
from keras import ops

from kerastools.optimizers import RAdam
from tests.optimizers.trajectory import (
    as_held,
    compiled,
    error,
    gradients,
    how_to_run,
    largest_error,
    optax_weights,
    reference,
    run,
)


def radam(eta=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
    """The rule in NumPy."""

    def rule(theta, g, t, slots):
        slots["step"] = np.float64(t)
        slots["momentum"] = m = beta_1 * slots.get("momentum", 0.0) + (1 - beta_1) * g
        slots["velocity"] = s = beta_2 * slots.get("velocity", 0.0) + (1 - beta_2) * g**2
        m_hat = m / (1 - beta_1**t)
        most = 2 / (1 - beta_2) - 1
        rho = most - 2 * t * beta_2**t / (1 - beta_2**t)
        if rho < 5:
            return theta - eta * m_hat
        r = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
        return theta - eta * r * m_hat * np.sqrt(1 - beta_2**t) / (np.sqrt(s) + epsilon)

    return rule


@pytest.mark.parametrize("how", how_to_run())
def test_two_hundred_steps_equal_numpy(how):
    optimizer = RAdam(0.01)
    got = run(optimizer, gradients(), how)
    betas = (as_held(optimizer, beta, how) for beta in (0.9, 0.999))
    assert largest_error(got, reference(radam(0.01, *betas), gradients())) < 1e-5


@pytest.mark.tensorflow
@pytest.mark.parametrize("beta_2", [0.5, 0.9, 0.999])
def test_two_hundred_steps_equal_numpy_in_float64(beta_2, float64):
    got = run(RAdam(0.01, beta_2=beta_2), gradients(), dtype="float64")
    assert largest_error(got, reference(radam(beta_2=beta_2), gradients())) < 1e-12


def test_agrees_with_optax():
    weights, _ = run(RAdam(0.01, epsilon=1e-20), gradients())
    theirs = optax_weights(optax.radam(0.01, eps=1e-20), gradients())
    # optax takes 1 − βᵗ from a rounded power, 1e-5 off in the first steps.
    assert error(weights, theirs) < 5e-5


def test_a_hundred_steps_give_the_numbers_of_the_authors_implementation():
    weights = [keras.Variable(np.float32(w)) for w in ([1, 2], [3, 4])]
    optimizer = RAdam(1e-3)
    optimizer.build(weights)
    step = compiled(optimizer, weights, how_to_run()[0])
    gs = [ops.convert_to_tensor(np.float32(g)) for g in ([0.1, 0.2], [0.03, 0.04])]
    for _ in range(100):
        step(gs)
    # TensorFlow Addons' test of RectifiedAdam, from the authors' code.
    want = [[0.985769, 1.985269], [2.986119, 3.986068]]
    for weight, expected in zip(weights, want, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(weight), expected, atol=2e-6)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="beta_2"):
        RAdam(beta_2=1.0)
