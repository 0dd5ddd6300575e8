import keras
import numpy as np
import pytest
from keras import ops

from kerastools.diagnosis._probe.trial_steps import Stepper

RNG = np.random.default_rng(1)
X = RNG.normal(size=(16, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]])).astype("float32")


def linear_model():
    keras.utils.set_random_seed(1)
    held = keras.constraints.NonNeg()
    dense = keras.layers.Dense(1, kernel_initializer="ones", kernel_constraint=held)
    return keras.Sequential([keras.Input((3,)), dense])


def mean_squared_error(y, prediction):
    return ops.mean(ops.square(prediction - y))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_the_steps_are_those_of_fit(optimizer):
    model = linear_model()
    before = [w.copy() for w in model.get_weights()]
    optimizer = keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 0.1}})
    stepper = Stepper(model, [(X, ops.convert_to_tensor(Y))], mean_squared_error, optimizer, "test")
    steps = stepper.run(num_steps=5)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Again, and at another rate, from the same start.
    assert stepper.run(num_steps=5).losses == pytest.approx(steps.losses)
    slower = stepper.run(factor=0.1, num_steps=5)
    assert slower.learning_rate == pytest.approx(0.01)
    assert steps.losses[-1] < slower.losses[-1] < slower.losses[0]
    model.compile(type(optimizer)(0.1), "mse")
    losses = model.fit(X, Y, batch_size=16, epochs=6, verbose=0).history["loss"]
    np.testing.assert_allclose(steps.losses, losses, rtol=1e-4)


def test_a_step_is_told_relative_to_the_weights():
    model = linear_model()
    w = ops.convert_to_numpy(model.trainable_variables[0]).astype("float64")
    gradient = 2 * X.T @ (X @ w - Y) / len(X)
    moved = np.maximum(w - 0.1 * gradient, 0)
    stepper = Stepper(model, [(X, Y)], mean_squared_error, keras.optimizers.SGD(0.1), "test")
    ((path, ratio),) = stepper.run(num_steps=1).updates
    assert path.endswith("kernel")
    assert ratio == pytest.approx(np.linalg.norm(moved - w) / np.linalg.norm(w), rel=1e-4)
