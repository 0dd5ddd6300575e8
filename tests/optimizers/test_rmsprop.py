import keras
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

FORMS = [{}, {"centered": True}, {"momentum": 0.9}, {"centered": True, "momentum": 0.5}]


def rmsprop(eta=0.01, rho=0.9, epsilon=1e-14, momentum=None, centered=False):
    """The rule in NumPy; ρ may be a function of the step."""

    def rule(theta, g, t, slots):
        r = rho(t) if callable(rho) else rho
        slots["_square"] = spread = r * slots.get("_square", 0.0) + (1 - r) * g**2
        slots["mean_square"] = spread
        if momentum is None and not centered:
            # What stands under the root needs no ε then.
            slots["mean_square"], slots["floor"] = spread + epsilon, np.float64(epsilon)
        if centered:
            slots["mean"] = mean = r * slots.get("mean", 0.0) + (1 - r) * g
            spread = spread - mean**2
        step = eta * g / np.sqrt(spread + epsilon)
        if momentum is not None:
            slots["velocity"] = step = momentum * slots.get("velocity", 0.0) + step
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
    twin = optax.rmsprop(0.01, decay=0.9, eps=1e-6, **form)
    assert error(weights, optax_weights(twin, gradients())) < 1e-5


def test_agrees_with_keras():
    ours, _ = run(RMSprop(0.01, epsilon=1e-6), gradients())
    theirs, _ = run(keras.optimizers.RMSprop(0.01, epsilon=1e-6), gradients())
    assert error(ours, theirs) < 1e-5


def test_rho_set_on_the_way_equals_numpy_with_the_change():
    optimizer = RMSprop(0.01)

    def change(step):
        if step == 100:
            optimizer.rho = 0.99

    got = run(optimizer, gradients(), before_step=change)
    want = reference(rmsprop(rho=lambda t: 0.9 if t <= 100 else 0.99), gradients())
    assert largest_error(got, want) < 1e-5


def test_momentum_needs_the_slot_it_was_made_without():
    optimizer = RMSprop()
    run(optimizer, gradients(1))
    with pytest.raises(ValueError, match="holds momentum=None"):
        optimizer.momentum = 0.9
    with pytest.raises(ValueError, match=r"rho to be a number in \[0, 1\)"):
        RMSprop(rho=1)
