import keras
import numpy as np
import optax
import pytest
from keras import ops

from kerastools.optimizers import ScheduleFreeAdamW
from tests.optimizers.trajectory import (
    compiled,
    error,
    gradients,
    how_to_run,
    largest_error,
    optax_weights,
    reference,
    run,
)

HESSIAN = np.array([1.0, 3.0, 10.0], "float32")

# y and x after 20 steps of the package `schedulefree` 1.4.1 on this quadratic.
CELLS = {
    (0.0, 0): ((0.49094682, -1.45738688, 0.06796929), (0.52843461, -1.50024699, 0.09293870)),
    (0.0, 5): ((0.52913830, -1.49628311, 0.09957560), (0.56101665, -1.53275324, 0.12152944)),
    (0.1, 0): ((0.45260678, -1.36288195, 0.05743806), (0.49200729, -1.41223675, 0.08214377)),
    (0.1, 5): ((0.49307068, -1.40797552, 0.08902659), (0.52666458, -1.45004977, 0.11089697)),
}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_agrees_with_the_authors_package(cell):
    decay, warmup = cell
    theta = keras.Variable(np.float32([1.0, -2.0, 0.5]))
    optimizer = ScheduleFreeAdamW(0.05, warmup_steps=warmup, weight_decay=decay or None)
    optimizer.build([theta])
    step = compiled(optimizer, [theta], how_to_run()[-1])
    for _ in range(20):
        step([ops.convert_to_tensor(HESSIAN * ops.convert_to_numpy(theta))])
    y, x = CELLS[cell]
    np.testing.assert_allclose(ops.convert_to_numpy(theta), y, rtol=0, atol=1e-6)
    optimizer.to_evaluation()
    np.testing.assert_allclose(ops.convert_to_numpy(theta), x, rtol=0, atol=1e-6)
    optimizer.to_training()
    np.testing.assert_allclose(ops.convert_to_numpy(theta), y, rtol=0, atol=1e-6)


def schedule_free(eta=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8, warmup=10, decay=0.1):
    """The rule in NumPy, from z and x as the paper's algorithm 1 has them."""
    sequences = {}

    def rule(y, g, t, slots):
        z, x = sequences.get(id(slots), (y, y))
        rate = eta * min(1.0, t / warmup)
        slots["step"] = np.float64(t)
        slots["largest_rate"] = most = max(slots.get("largest_rate", 0.0), rate)
        slots["weight_sum"] = total = slots.get("weight_sum", 0.0) + most**2
        slots["velocity"] = s = beta_2 * slots.get("velocity", 0.0) + (1 - beta_2) * g**2
        z = z - rate * (g / (np.sqrt(s / (1 - beta_2**t)) + epsilon) + decay * y)
        x = x + most**2 / total * (z - x)
        sequences[id(slots)] = z, x
        y = (1 - beta_1) * z + beta_1 * x
        slots["offset"] = z - y
        return y

    return rule


@pytest.mark.parametrize("how", how_to_run())
def test_two_hundred_steps_equal_numpy(how):
    optimizer = ScheduleFreeAdamW(0.01, warmup_steps=10, weight_decay=0.1)
    got = run(optimizer, gradients(), how)
    assert largest_error(got, reference(schedule_free(), gradients())) < 1e-5


@pytest.mark.tensorflow
def test_two_hundred_steps_equal_numpy_in_float64(float64):
    optimizer = ScheduleFreeAdamW(0.01, warmup_steps=10, weight_decay=0.1)
    got = run(optimizer, gradients(), dtype="float64")
    assert largest_error(got, reference(schedule_free(), gradients())) < 1e-12


def test_agrees_with_optax_without_warmup_and_decay():
    weights, _ = run(ScheduleFreeAdamW(0.01), gradients())
    twin = optax.contrib.schedule_free_adamw(0.01, weight_decay=0.0)
    # optax takes 1 − βᵗ from a rounded power, 1e-5 off in the first steps.
    assert error(weights, optax_weights(twin, gradients())) < 5e-5


def test_the_first_evaluation_is_where_training_began():
    theta = keras.Variable(np.float32([1.0, 2.0]))
    optimizer = ScheduleFreeAdamW(lambda step: 0.0 * ops.cast(step, "float32"))
    optimizer.apply([ops.convert_to_tensor([1.0, 1.0])], [theta])
    optimizer.to_evaluation()
    np.testing.assert_array_equal(ops.convert_to_numpy(theta), [1.0, 2.0])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"beta_1 to be a number in \(0, 1\)"):
        ScheduleFreeAdamW(beta_1=0.0)
    with pytest.raises(ValueError, match="warmup_steps=-1"):
        ScheduleFreeAdamW(warmup_steps=-1)
