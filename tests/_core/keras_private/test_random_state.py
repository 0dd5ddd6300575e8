"""The random states of a process: what is drawn after putting them back is what was drawn before.

The last is Keras's own and reached privately: this fails when Keras moves it.
"""

import json
import random

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.random_state import (
    random_state,
    seed_and_keep_kernels,
    set_random_state,
)


def draw():
    drawn = random.random(), np.random.normal(), keras.random.uniform(())
    return tuple(map(float, drawn))


def test_the_same_is_drawn_after_the_state_was_put_back():
    keras.utils.set_random_seed(5)
    draw()
    state = json.loads(json.dumps(random_state()))
    expected = draw()
    assert all(a != b for a, b in zip(draw(), expected, strict=True))
    set_random_state(state)
    assert draw() == expected
    keras.utils.clear_session()  # As in a new process, Keras has no generator yet.
    set_random_state(state)
    assert draw() == expected


@pytest.mark.tensorflow  # It is about TensorFlow's kernels.
def test_seeding_draws_as_keras_does_and_keeps_what_was_compiled():
    import tensorflow as tf

    compiled = tf.function(lambda: tf.random.normal(()))
    found = []
    for seed in (keras.utils.set_random_seed, seed_and_keep_kernels):
        keras.utils.set_random_seed(1)  # Throws away the kernels of the seed that is to come.
        seed(7)
        kernel = keras.layers.Dense(3).kernel_initializer((2, 3))
        found.append([*draw(), float(kernel[0, 0]), float(tf.random.normal(()))])
    assert found[0] == found[1]

    first, second = float(compiled()), float(compiled())
    seed_and_keep_kernels(8)
    assert float(compiled()) not in (first, second)  # Its kernel goes on,
    keras.utils.set_random_seed(8)
    assert float(compiled()) == first  # and is a new one.
