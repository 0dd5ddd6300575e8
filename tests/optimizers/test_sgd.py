import json

import keras
import numpy as np
import optax
import pytest
from keras import ops

from kerastools.optimizers import SGD, Adagrad
from tests.optimizers.trajectory import (
    SHAPES,
    compiled,
    error,
    gradients,
    how_to_run,
    largest_error,
    optax_weights,
    reference,
    run,
)


def momentum(eta=0.1, gamma=0.9, nesterov=False, decay=0.0):
    """The rule in NumPy; γ may be a function of the step."""

    def rule(theta, g, t, slots):
        rate = gamma(t) if callable(gamma) else gamma
        v = eta * g - rate * slots.get("displacement", 0.0)
        slots["displacement"] = -v
        return theta - eta * decay * theta - (rate * v + eta * g if nesterov else v)

    return rule


@pytest.mark.parametrize("how", how_to_run())
@pytest.mark.parametrize("nesterov", [False, True])
def test_two_hundred_steps_equal_numpy(nesterov, how):
    got = run(SGD(0.1, 0.9, nesterov=nesterov, weight_decay=0.01), gradients(), how)
    want = reference(momentum(nesterov=nesterov, decay=0.01), gradients())
    assert largest_error(got, want) < 1e-5


@pytest.mark.tensorflow
@pytest.mark.parametrize("nesterov", [False, True])
def test_two_hundred_steps_equal_numpy_in_float64(nesterov, float64):
    got = run(SGD(0.1, 0.9, nesterov=nesterov), gradients(), "graph", "float64")
    assert largest_error(got, reference(momentum(nesterov=nesterov), gradients())) < 1e-12


@pytest.mark.parametrize("nesterov", [False, True])
def test_agrees_with_optax(nesterov):
    weights, _ = run(SGD(0.1, 0.9, nesterov=nesterov), gradients())
    twin = optax.sgd(0.1, 0.9, nesterov=bool(nesterov))
    assert error(weights, optax_weights(twin, gradients())) < 1e-5


@pytest.mark.parametrize("how", how_to_run())
def test_momentum_set_on_the_way_equals_numpy_with_the_change(how):
    optimizer = SGD(0.1, momentum=0)

    def change(step):
        if step == 100:
            optimizer.momentum = np.float32(0.75)

    got = run(optimizer, gradients(), how, before_step=change)
    want = reference(momentum(gamma=lambda t: 0.0 if t <= 100 else 0.75), gradients())
    assert largest_error(got, want) < 1e-5


HESSIAN = np.array([1.0, 10.0, 100.0])


def descend(optimizer, hessian, theta_0, steps, before_step=lambda step: None):
    """Returns θ after each step on ½θᵀHθ with a diagonal H."""
    theta = keras.Variable(theta_0, dtype=theta_0.dtype.name)
    optimizer.build([theta])
    step, path = compiled(optimizer, [theta], how_to_run()[-1]), []
    for t in range(steps):
        before_step(t)
        path.append(ops.convert_to_numpy(theta).copy())
        step([ops.convert_to_tensor(hessian * path[-1])])
    return theta, np.array(path)


def nesterov_by_definition(theta, steps, eta, gammas):
    """θ after v ← γv + ηg(θ − γv); θ ← θ − v, on ½θᵀHθ."""
    v = np.zeros_like(theta)
    for t in range(steps):
        v = gammas(t) * v + eta * HESSIAN * (theta - gammas(t) * v)
        theta = theta - v
    return theta


@pytest.mark.tensorflow
@pytest.mark.parametrize("changed", [0.9, 0.6])
def test_exact_nesterov_evaluates_where_its_definition_stands(changed, float64):
    theta_0 = np.array([1.0, -2.0, 0.5])
    optimizer = SGD(0.009, momentum=0.9, nesterov="exact")

    def change(step):
        # Step 24 makes the look-ahead at whose end the gradient of step 25 is taken.
        optimizer.momentum = 0.9 if step < 24 else changed

    phi, _ = descend(optimizer, HESSIAN, theta_0, 50, change)
    optimizer.to_evaluation()
    want = nesterov_by_definition(theta_0, 50, 0.009, lambda t: 0.9 if t < 25 else changed)
    assert np.max(np.abs(ops.convert_to_numpy(phi) - want)) < 1e-12


def test_exact_and_shifted_walk_along_the_same_points():
    exact, slots = run(SGD(0.1, 0.9, nesterov="exact"), gradients())
    shifted, _ = run(SGD(0.1, 0.9, nesterov=True), gradients())
    assert error(exact, shifted) < 1e-6
    assert all(np.abs(u).max() > 0 for u in slots["lookahead"])


def test_swapping_there_and_back_changes_no_bit():
    theta = keras.Variable(np.float32([1.0, -2.0, 0.25]))
    optimizer = SGD(0.01, momentum=0.9, nesterov="exact")
    for _ in range(7):
        optimizer.apply([theta + 0.0], [theta])
    trained = ops.convert_to_numpy(theta).copy()
    optimizer.to_evaluation()
    optimizer.to_evaluation()
    assert optimizer.at_evaluation
    assert np.all(ops.convert_to_numpy(theta) != trained)
    optimizer.to_training()
    optimizer.to_training()
    assert not optimizer.at_evaluation
    np.testing.assert_array_equal(ops.convert_to_numpy(theta), trained)


def test_weights_loaded_while_evaluating_are_trained_on():
    theta = keras.Variable(np.float32([1.0, -2.0, 0.25]))
    optimizer = SGD(0.01, momentum=0.9, nesterov="exact")
    optimizer.apply([theta + 0.0], [theta])
    optimizer.to_evaluation()
    theta.assign([7.0, 7.0, 7.0])
    optimizer.to_training()
    lookahead = ops.convert_to_numpy(optimizer._lookahead_slots[0])
    np.testing.assert_allclose(ops.convert_to_numpy(theta), 7.0 + lookahead, rtol=1e-7)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_constant_gradient_reaches_terminal_velocity(gamma):
    steps = int(np.ceil(np.log(1e-4) / np.log(gamma)))
    constant = [[np.full(shape, 3.0) for shape in SHAPES]] * steps
    _, slots = run(SGD(0.01, momentum=gamma), constant)
    # γᵗ < 1e-4 of it is missing still.
    np.testing.assert_allclose(-slots["displacement"][0], 0.01 * 3 / (1 - gamma), rtol=2e-4)


def rate_of_convergence(optimizer, hessian, steps):
    """The factor by which the distance shrinks per step, from the second half of the run."""
    _, path = descend(optimizer, hessian, np.ones_like(hessian), steps)
    # The slope of a straight line through the logarithms smooths the beat of complex roots.
    return np.exp(slope(np.linalg.norm(path, axis=1)))


def slope(numbers):
    half = np.arange(len(numbers) // 2, len(numbers))
    return np.polyfit(half, np.log(numbers[half]), 1)[0]


@pytest.mark.tensorflow
@pytest.mark.parametrize("kappa", [10, 100, 1000])
@pytest.mark.parametrize("nesterov", [False, True, "exact"])
def test_quadratics_are_descended_at_the_rate_of_the_theory(kappa, nesterov, float64):
    hessian, q = np.array([1.0, float(kappa)]), np.sqrt(kappa)
    if nesterov:
        # Nesterov 1983 with η = 1/L: the slowest mode shrinks by 1 − 1/√κ.
        eta, gamma, rate = 1 / kappa, (q - 1) / (q + 1), 1 - 1 / q
    else:
        # Polyak 1964 at its optimum: every mode by √γ = (√κ − 1)/(√κ + 1).
        eta, gamma, rate = 4 / (q + 1) ** 2, ((q - 1) / (q + 1)) ** 2, (q - 1) / (q + 1)
    optimizer = SGD(eta, gamma, nesterov=nesterov)
    steps = int(12 * q)
    # The slowest mode has a double root, hence t·rateᵗ.
    theory = rate * np.exp(slope(np.arange(1.0, steps + 1)))
    assert rate_of_convergence(optimizer, hessian, steps) == pytest.approx(theory, abs=0.1 / q)


def test_momentum_is_faster_than_plain_descent_in_a_long_valley():
    losses = {}
    for nesterov, gamma in [(False, 0.0), (False, 0.9), (True, 0.9), ("exact", 0.9)]:
        optimizer = SGD(0.009, momentum=gamma, nesterov=nesterov)
        _, path = descend(optimizer, np.float32(HESSIAN), np.ones(3, "float32"), 150)
        losses[nesterov, gamma] = np.sum(path[-1] ** 2)
    plain = losses.pop((False, 0.0))
    assert all(loss < plain / 100 for loss in losses.values())


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", [lambda: SGD(0.1), lambda: Adagrad(0.1), lambda: SGD(0.1, 0.9)])
def test_the_rows_of_an_embedding_move_as_all_of_it(make):
    import tensorflow as tf

    shape = (300, 60)  # Too large for a stack.
    rng = np.random.default_rng(0)
    tables = [keras.Variable(np.ones(shape, "float32")) for _ in range(2)]
    optimizers = [make() for _ in tables]

    @tf.function
    def step(ids, values):
        sparse = tf.IndexedSlices(values, ids, tf.constant(shape))
        for o, table, g in zip(
            optimizers, tables, (sparse, tf.convert_to_tensor(sparse)), strict=True
        ):
            o.apply([g], [table])

    for o, table in zip(optimizers, tables, strict=True):
        o.build([table])
    for _ in range(3):
        ids = tf.constant(rng.integers(0, 20, 30))  # Some rows twice.
        step(ids, tf.constant(rng.normal(size=(30, 60)).astype("float32")))
    np.testing.assert_allclose(*map(ops.convert_to_numpy, tables), rtol=1e-6)
    if optimizers[0].get_config().get("momentum", 1):
        slots = [ops.convert_to_numpy(o._slots_of(0)[0]) for o in optimizers]
        np.testing.assert_allclose(*slots, rtol=1e-6, atol=1e-8)


def test_config_names_the_form_and_the_numbers_as_they_are_now():
    optimizer = SGD(1, momentum=0, nesterov="exact", global_clipnorm=2)
    optimizer.momentum = 0.95
    config = json.loads(json.dumps(optimizer.get_config()))
    assert config["learning_rate"] == 1.0
    assert config["momentum"] == 0.95
    assert config["nesterov"] == "exact"
    assert config["global_clipnorm"] == 2.0
    assert SGD.from_config(config).get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"momentum": 1.5}, r"momentum to be a number in \[0, 1\].*momentum=1.5"),
        ({"momentum": -0.5}, "momentum"),
        ({"nesterov": "shifted"}, "shifted"),
        ({"clipnorm": -1}, "clipnorm"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SGD(**arguments)
