import numpy as np
import optax
import pytest

from kerastools.optimizers import RMSprop
from tests.optimizers.trajectory import (
    error,
    gradients,
    how_to_run,
    largest_error,
    optax_weights,
    reference,
    run,
)

FORMS = [
    {},
    {"momentum": None},
    {"momentum": None, "centered": True},
    {"momentum": 0.9},
    {"centered": True, "momentum": 0.5},
]


def rmsprop(eta=0.01, rho=0.9, epsilon=1e-7, momentum=0.0, centered=False):
    """The rule in NumPy; ρ and γ may be functions of the step."""

    def rule(theta, g, t, slots):
        r = rho(t) if callable(rho) else rho
        slots["mean_square"] = spread = r * slots.get("mean_square", 0.0) + (1 - r) * g**2
        if centered:
            slots["mean"] = mean = r * slots.get("mean", 0.0) + (1 - r) * g
            spread = spread - mean**2
        step = eta * g / np.sqrt(spread + epsilon)
        if momentum is not None:
            gamma = momentum(t) if callable(momentum) else momentum
            slots["velocity"] = step = gamma * slots.get("velocity", 0.0) + step
        return theta - step

    return rule


@pytest.mark.parametrize("how", how_to_run())
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_two_hundred_steps_equal_numpy(form, how):
    got = run(RMSprop(0.01, **form), gradients(), how)
    assert largest_error(got, reference(rmsprop(**form), gradients())) < 1e-5


@pytest.mark.tensorflow
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_two_hundred_steps_equal_numpy_in_float64(form, float64):
    got = run(RMSprop(0.01, **form), gradients(), dtype="float64")
    assert largest_error(got, reference(rmsprop(**form), gradients())) < 1e-12


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_agrees_with_optax(form):
    weights, _ = run(RMSprop(0.01, epsilon=1e-6, **form), gradients())
    form = {"momentum": None} | form
    twin = optax.rmsprop(0.01, decay=0.9, eps=1e-6, **form)
    assert error(weights, optax_weights(twin, gradients())) < 1e-5


def test_rho_set_on_the_way_equals_numpy_with_the_change():
    optimizer = RMSprop(0.01)

    def change(step):
        if step == 100:
            optimizer.rho = 0.99

    got = run(optimizer, gradients(), before_step=change)
    want = reference(rmsprop(rho=lambda t: 0.9 if t <= 100 else 0.99), gradients())
    assert largest_error(got, want) < 1e-5


def test_momentum_rises_while_training():
    optimizer = RMSprop(0.01)

    def change(step):
        if step == 100:
            optimizer.momentum = 0.9

    got = run(optimizer, gradients(), before_step=change)
    momentum = lambda t: 0.0 if t <= 100 else 0.9  # noqa: E731
    assert largest_error(got, reference(rmsprop(momentum=momentum), gradients())) < 1e-5


def test_momentum_needs_the_slot_it_was_made_without():
    optimizer = RMSprop(momentum=None)
    run(optimizer, gradients(1))
    with pytest.raises(ValueError, match="holds momentum=None"):
        optimizer.momentum = 0.9
    with pytest.raises(ValueError, match=r"rho to be a number in \[0, 1\)"):
        RMSprop(rho=1)
