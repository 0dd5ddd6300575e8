import json
from functools import partial

import keras
import numpy as np
import optax
import pytest
from keras import ops

from kerastools.optimizers import Adam
from tests.optimizers.trajectory import (
    as_held,
    error,
    gradients,
    how_to_run,
    largest_error,
    optax_weights,
    reference,
    run,
    start,
)

MODES = ["inside", "outside", "hat"]


def adam(
    eta=0.01,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-7,
    mode="hat",
    amsgrad=False,
    decay=0.0,
    held=float,
    rounded=lambda beta: float(np.float32(beta)),
):
    """The rule in NumPy; each β may be a function of the step.

    Slots average with `held(β)`, the step has averages with β, and corrects them as Keras does,
    with `rounded(β)`.
    """

    def at(number, t):
        return number(t) if callable(number) else number

    def averages(slots, prefix, g, b1, b2):
        m, v = (slots.get(prefix + name, 0.0) for name in ("momentum", "velocity"))
        slots[prefix + "momentum"] = m = b1 * m + (1 - b1) * g
        slots[prefix + "velocity"] = v = b2 * v + (1 - b2) * g**2
        if amsgrad:
            slots[prefix + "largest"] = v = np.maximum(slots.get(prefix + "largest", 0.0), v)
        return m, v

    def rule(theta, g, t, slots):
        b1, b2 = at(beta_1, t), at(beta_2, t)
        slots["step"] = np.float64(t)
        averages(slots, "", g, held(b1), held(b2))
        m, v = averages(slots, "_", g, b1, b2)
        bias_1, bias_2 = (1 - rounded(b) ** t for b in (b1, b2))
        v_hat = v / bias_2
        root = {
            "inside": np.sqrt(v_hat + epsilon),
            "outside": np.sqrt(v_hat) + epsilon,
            "hat": np.sqrt(v_hat) + epsilon / np.sqrt(bias_2),
        }[mode]
        return theta - eta * decay * theta - eta * m / bias_1 / root

    return rule


@pytest.mark.parametrize("how", how_to_run())
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_two_hundred_steps_equal_numpy(mode, amsgrad, how):
    optimizer = Adam(0.01, epsilon_mode=mode, amsgrad=amsgrad, weight_decay=0.1)
    got = run(optimizer, gradients(), how)
    rule = adam(mode=mode, amsgrad=amsgrad, decay=0.1, held=partial(as_held, optimizer, how=how))
    want = reference(rule, gradients())
    assert largest_error(got, want) < 1e-5


@pytest.mark.tensorflow
def test_eager_steps_equal_numpy():
    few, optimizer = gradients(20), Adam(0.01)
    got = run(optimizer, few, "eager")
    rule = adam(held=partial(as_held, optimizer, how="eager"))
    assert largest_error(got, reference(rule, few)) < 1e-5


@pytest.mark.parametrize("beta_2", [0.9, 0.9999, 0.99999])
def test_decay_rates_near_one_keep_their_precision_in_float32(beta_2):
    optimizer = Adam(0.01, beta_2=beta_2)
    optimizer._fuses = False
    want = reference(adam(beta_2=beta_2), gradients())
    assert largest_error(run(optimizer, gradients()), want) < 1e-5
    # A kernel averages with the β₂ that float32 has, and the step makes up for it.
    optimizer = Adam(0.01, beta_2=beta_2)
    want = reference(adam(beta_2=beta_2, held=partial(as_held, optimizer)), gradients())
    assert largest_error(run(optimizer, gradients()), want) < 1e-5


@pytest.mark.tensorflow
def test_a_compiled_kernel_and_the_correction_of_its_bias_have_the_same_decay_rate():
    """TensorFlow simplifies 1 − (1 − x), which is how a number is rounded as the kernel's is."""

    def trained(eagerly):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((64,)), keras.layers.Dense(80), keras.layers.Dense(1)]
        )
        model.compile(Adam(0.01, beta_2=0.999999, epsilon=1e-3), "mse", run_eagerly=eagerly)
        x = np.random.default_rng(0).normal(size=(100, 64))
        model.fit(x, x[:, :1], batch_size=20, epochs=1, shuffle=False, verbose=0)
        return model.get_weights()[0]

    assert np.abs(trained(False) - trained(True)).max() < 2e-6


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", MODES)
def test_two_hundred_steps_equal_numpy_in_float64(mode, float64):
    got = run(Adam(0.01, epsilon_mode=mode, amsgrad=True), gradients(), "graph", "float64")
    want = reference(adam(mode=mode, amsgrad=True, rounded=float), gradients())
    assert largest_error(got, want) < 1e-12


@pytest.mark.parametrize(
    ("mode", "twin"),
    [
        ("inside", optax.adam(0.01, eps=0.0, eps_root=1e-6)),
        ("outside", optax.adam(0.01, eps=1e-6)),
    ],
)
def test_agrees_with_optax(mode, twin):
    weights, _ = run(Adam(0.01, epsilon=1e-6, epsilon_mode=mode), gradients())
    # Both round each step; optax takes 1 − βᵗ from a rounded power, 1e-5 off in the first steps.
    assert error(weights, optax_weights(twin, gradients())) < 2e-5


@pytest.mark.parametrize("how", how_to_run())
def test_numbers_set_on_the_way_equal_numpy_with_the_change(how):
    optimizer = Adam(0.01, epsilon=1e-6)

    def change(step):
        if step == 100:
            optimizer.beta_1 = 0.5
            optimizer.beta_2 = 0.99

    got = run(optimizer, gradients(), how, before_step=change)
    want = reference(
        adam(
            beta_1=lambda t: 0.9 if t <= 100 else 0.5,
            beta_2=lambda t: 0.999 if t <= 100 else 0.99,
            epsilon=1e-6,
            held=partial(as_held, optimizer, how=how),
        ),
        gradients(),
    )
    assert largest_error(got, want) < 1e-5


def test_constant_gradient_moves_every_weight_by_the_learning_rate():
    constant = [gradients(1)[0]] * 10
    weights, _ = run(Adam(0.01, epsilon=0), constant)
    for after, before, g in zip(weights, start(), constant[0], strict=True):
        np.testing.assert_allclose(before - after, 0.1 * np.sign(g), rtol=1e-4)


def test_a_variable_that_joins_late_steps_by_no_more_than_the_learning_rate():
    early, late = keras.Variable([1.0, 1.0]), keras.Variable([1.0, 1.0])
    optimizer = Adam(0.01)
    optimizer.build([early, late])
    optimizer._step_slots.assign([2000.0, 0.0])
    before = ops.convert_to_numpy(late)
    g = ops.convert_to_tensor([0.3, -0.7])
    optimizer.apply([g, g], [early, late])
    step = np.abs(ops.convert_to_numpy(late) - before)
    np.testing.assert_allclose(step, 0.01, rtol=1e-3)
    counts = ops.convert_to_numpy(optimizer._step_slots).tolist()
    assert counts == [2001.0, 1.0]


def test_config_holds_plain_numbers_as_they_were_given():
    optimizer = Adam(0.001, beta_1=0.85, beta_2=0.9999, epsilon=1e-7, weight_decay=0.004)
    config = json.loads(json.dumps(optimizer.get_config()))
    assert config["beta_1"] == 0.85
    assert config["beta_2"] == 0.9999
    assert config["epsilon"] == 1e-7
    assert config["weight_decay"] == 0.004
    assert config["clipnorm"] is None
    assert Adam.from_config(config).get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -0.1}, r"learning_rate to be a number in \[0, inf\).*-0.1"),
        ({"beta_1": 1.0}, r"beta_1 to be a number in \[0, 1\).*1.0"),
        ({"beta_2": -0.1}, "beta_2"),
        ({"beta_2": float("nan")}, "beta_2"),
        ({"beta_1": "much"}, "beta_1='much'"),
        ({"epsilon": -1}, r"epsilon to be a number in \[0, inf\)"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"epsilon_mode": "between"}, "epsilon_mode='between'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Adam(**arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="beta_3"):
        Adam(beta_3=0.9)
