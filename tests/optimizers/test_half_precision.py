"""Variables of half precision train as those of single precision do."""

from functools import cache

import keras
import numpy as np
import pytest
from keras import ops

from kerastools.optimizers import SGD, Adagrad, Adam, Adamax, Nadam, RAdam, RMSprop
from tests.optimizers.trajectory import FAST, compiled

RULES = [
    lambda: SGD(0.002, 0.9),
    lambda: SGD(0.002, 0.9, nesterov="exact"),
    lambda: Adagrad(0.05),
    lambda: RMSprop(0.002),
    lambda: Adam(0.005),
    lambda: Nadam(0.005),
    lambda: Adamax(0.005),
    lambda: RAdam(0.005),
]
HESSIAN = np.float32([[1.0, 3.0], [0.5, 2.0]])
START = np.float32([[1.0, -2.0], [0.5, 4.0]])


@cache
def distance(make, dtype, steps=200):
    """How far the weights are after each of some steps down a quadratic."""
    theta = keras.Variable(START, dtype=dtype)
    optimizer, path = make(), []
    optimizer.build([theta])
    step = compiled(optimizer, [theta], FAST)
    for t in range(steps):
        step([ops.cast(ops.convert_to_tensor(HESSIAN) * ops.cast(theta, "float32"), dtype)])
        if t % 20 == 19:
            path.append(ops.convert_to_numpy(ops.cast(theta, "float32")))
    return np.array(path), optimizer


@pytest.mark.tensorflow  # The rules are tested on both in float32.
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("make", RULES)
def test_two_hundred_steps_stay_within_two_percent_of_float32(make, dtype):
    wide, _ = distance(make, "float32")
    half, optimizer = distance(make, dtype)
    assert np.abs(half - wide).max() < 0.02 * np.abs(START).max()
    # They moved, which is more than Keras's Adam does in bfloat16.
    assert np.abs(half[-1] - START).max() > 0.3
    slots = [slot for name in optimizer._slots for slot in getattr(optimizer, f"_{name}_slots")]
    assert {slot.dtype for slot in [*slots, *optimizer._master_slots]} == {"float32"}


def test_keras_adam_stands_still_in_bfloat16():
    half, _ = distance(lambda: keras.optimizers.Adam(0.005), "bfloat16", steps=40)
    np.testing.assert_array_equal(half[-1], START)


def test_weights_that_somebody_else_sets_are_trained_on():
    theta = keras.Variable(START, dtype="bfloat16")
    optimizer = SGD(0.5)
    zero, one = ops.zeros((2, 2), "bfloat16"), ops.ones((2, 2), "bfloat16")
    optimizer.apply([one], [theta])
    theta.assign(ops.convert_to_tensor([[7.0, 0.5], [0.0, 3.5]], "bfloat16"))
    optimizer.apply([zero], [theta])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(theta, "float32")), [[7.0, 0.5], [0.0, 3.5]]
    )


def test_a_model_of_bfloat16_trains_and_resumes_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.normal(size=(32, 4))), np.float32(rng.normal(size=(32, 1)))
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh", dtype="bfloat16"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(Adam(1e-3), "mse")
    start = model.get_weights()[0].astype("float32")
    model.fit(x, y, shuffle=False, epochs=20, verbose=0)
    assert np.abs(model.get_weights()[0].astype("float32") - start).max() > 1e-2
    assert [slot is None for slot in model.optimizer._master_slots] == [False, False, True, True]
    model.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    for one in (model, loaded):
        one.fit(x, y, shuffle=False, epochs=5, verbose=0)
    for a, b in zip(
        model.variables + model.optimizer.variables,
        loaded.variables + loaded.optimizer.variables,
        strict=True,
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
