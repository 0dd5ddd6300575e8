"""The random states of a process: what is drawn after putting them back is what was drawn before.

The last is Keras's own and reached privately: this fails when Keras moves it.
"""

import json
import random

import keras
import numpy as np

from kerastools._core._random_state import random_state, set_random_state


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
