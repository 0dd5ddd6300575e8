import numpy as np
import pytest

from kerastools.optimizers import Nadam
from tests.optimizers.trajectory import (
    as_held,
    gradients,
    how_to_run,
    largest_error,
    reference,
    run,
)

PACES = {"none": None, "dozat": 1 / 250, "keras": 1.0}


def nadam(schedule="keras", eta=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-7, mode="outside"):
    """The rule in NumPy: that of the class without a schedule, Dozat's algorithm 2 with one."""

    def mu(t):
        return beta_1 * (1 - 0.5 * 0.96 ** (PACES[schedule] * t))

    def rule(theta, g, t, slots):
        slots["step"] = np.float64(t)
        slots["momentum"] = m = beta_1 * slots.get("momentum", 0.0) + (1 - beta_1) * g
        slots["velocity"] = v = beta_2 * slots.get("velocity", 0.0) + (1 - beta_2) * g**2
        if schedule == "none":
            slots["weight"] = 1 - beta_1**t
            m_hat = m / (1 - beta_1**t)
            m_bar = beta_1 * m_hat + (1 - beta_1) * g / (1 - beta_1**t)
        else:
            product = np.prod([mu(i) for i in range(1, t + 1)])
            slots["weight"] = 1 - product
            m_bar = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        v_hat = v / (1 - beta_2**t)
        root = {
            "inside": np.sqrt(v_hat + epsilon),
            "outside": np.sqrt(v_hat) + epsilon,
            "hat": np.sqrt(v_hat) + epsilon / np.sqrt(1 - beta_2**t),
        }[mode]
        return theta - eta * m_bar / root

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


@pytest.mark.parametrize("mode", ["inside", "hat"])
def test_epsilon_stands_where_it_is_said(mode):
    optimizer = Nadam(0.01, epsilon=1e-3, momentum_schedule="none", epsilon_mode=mode)
    betas = (as_held(optimizer, beta) for beta in (0.9, 0.999))
    want = reference(nadam("none", 0.01, *betas, epsilon=1e-3, mode=mode), gradients())
    assert largest_error(run(optimizer, gradients()), want) < 1e-5


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="momentum_schedule='torch'"):
        Nadam(momentum_schedule="torch")
    with pytest.raises(ValueError, match="epsilon_mode='between'"):
        Nadam(epsilon_mode="between")
    with pytest.raises(ValueError, match="beta_2"):
        Nadam(beta_2=1.5)
