import keras
import numpy as np
import pytest

from kerastools.optimizers import Nadam
from tests.optimizers.trajectory import (
    as_held,
    error,
    gradients,
    how_to_run,
    largest_error,
    reference,
    run,
)

PACES = {"none": None, "dozat": 1 / 250, "keras": 1.0}


def nadam(schedule="none", eta=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-14):
    """The rule in NumPy: SPEC's without a schedule, Dozat's algorithm 2 with one."""

    def mu(t):
        return beta_1 * (1 - 0.5 * 0.96 ** (PACES[schedule] * t))

    def rule(theta, g, t, slots):
        slots["step"] = np.float64(t)
        slots["momentum"] = m = beta_1 * slots.get("momentum", 0.0) + (1 - beta_1) * g
        slots["_s"] = s = beta_2 * slots.get("_s", 0.0) + (1 - beta_2) * g**2
        slots["floor"] = floor = epsilon * (1 - beta_2 ** np.float64(t))
        slots["velocity"] = s + floor
        if schedule == "none":
            slots["weight"] = 1 - beta_1**t
            m_hat = m / (1 - beta_1**t)
            m_bar = beta_1 * m_hat + (1 - beta_1) * g / (1 - beta_1**t)
        else:
            product = np.prod([mu(i) for i in range(1, t + 1)])
            slots["weight"] = 1 - product
            m_bar = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        return theta - eta * m_bar / np.sqrt(s / (1 - beta_2**t) + epsilon)

    return rule


@pytest.mark.parametrize("how", how_to_run())
@pytest.mark.parametrize("schedule", PACES)
def test_two_hundred_steps_equal_numpy(schedule, how):
    optimizer = Nadam(0.01, momentum_schedule=schedule)
    got = run(optimizer, gradients(), how)
    betas = (as_held(optimizer, beta, how) for beta in (0.9, 0.999))
    assert largest_error(got, reference(nadam(schedule, 0.01, *betas), gradients())) < 1e-5


@pytest.mark.tensorflow
@pytest.mark.parametrize("schedule", PACES)
def test_two_hundred_steps_equal_numpy_in_float64(schedule, float64):
    got = run(Nadam(0.01, momentum_schedule=schedule), gradients(), dtype="float64")
    assert largest_error(got, reference(nadam(schedule), gradients())) < 1e-12


def test_kerass_schedule_agrees_with_keras():
    # At an ε that is nothing it does not matter where it stands.
    ours, _ = run(Nadam(0.01, epsilon=1e-20, momentum_schedule="keras"), gradients())
    theirs, _ = run(keras.optimizers.Nadam(0.01, epsilon=1e-10), gradients())
    # Keras takes 1 − β₂ᵗ from a rounded power, 1e-5 off in the first steps.
    assert error(ours, theirs) < 5e-5


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="momentum_schedule='torch'"):
        Nadam(momentum_schedule="torch")
    with pytest.raises(ValueError, match="beta_2"):
        Nadam(beta_2=1.5)
