"""Two replicas are one: run in a process of its own, where TensorFlow has two CPU devices."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tensorflow

SCRIPT = """
import keras, numpy as np, tensorflow as tf
from kerastools.optimizers import SGD, Adam

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
x, y = np.float32(rng.normal(size=(32, 3))), np.float32(rng.normal(size=(32, 1)))


def trained(strategy, make):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"),
                                  keras.layers.Dense(1)])
        model.compile(make(), "mse")
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    if isinstance(model.optimizer, Adam):
        model.optimizer.beta_1 = 0.5
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model.get_weights() + [v.numpy() for v in model.optimizer.variables]


# A clip of 0.1 acts in every step; on each replica's part it would act otherwise.
for make in (lambda: Adam(0.01, global_clipnorm=0.1, weight_decay=0.01),
             lambda: SGD(0.1, 0.9, nesterov="exact", clipnorm=0.1)):
    for a, b in zip(trained(one, make), trained(two, make), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
print("equal")
"""


def test_two_replicas_equal_one_with_clipping_and_a_number_set_between():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]
