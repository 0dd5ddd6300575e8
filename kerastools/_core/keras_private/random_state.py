"""The random states that a process has and that no model saves."""

import random
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute

# Keras's own names for the generator of what is drawn without a seed and for the seed from which
# it is made; there is no public way to them.
_KERAS = "global_seed_generator"
_KERAS_SEED = "global_random_seed"


def random_state() -> dict[str, Any]:
    """Returns the states of Python's, NumPy's and Keras's global generators, as plain data."""
    version, numbers, following = random.getstate()
    drawn = np.random.get_state(legacy=False)
    generator = get_global_attribute(_KERAS)
    return {
        "python": [version, list(numbers), following],
        "numpy": drawn | {"state": drawn["state"] | {"key": drawn["state"]["key"].tolist()}},
        "keras": None
        if generator is None
        else keras.ops.convert_to_numpy(generator.state).tolist(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` returned."""
    if state["keras"] is not None:
        if get_global_attribute(_KERAS) is None:
            set_global_attribute(_KERAS, keras.random.SeedGenerator(0))
        get_global_attribute(_KERAS).state.assign(state["keras"])
    version, numbers, following = state["python"]
    random.setstate((version, tuple(numbers), following))
    drawn = state["numpy"]
    key = np.array(drawn["state"]["key"], "uint32")
    np.random.set_state(drawn | {"state": drawn["state"] | {"key": key}})


def seed_and_keep_kernels(seed: int) -> None:
    """Does what `keras.utils.set_random_seed` does, but for TensorFlow's compiled kernels.

    That throws them all away, and the next step of a function that was compiled long ago takes a
    second. What it is for: `tf.random.normal` and its kin repeat their numbers when the same seed
    is set once more. Here they do not; what they draw after a new seed is the same.
    """
    if keras.backend.backend() != "tensorflow":
        keras.utils.set_random_seed(seed)
        return
    from tensorflow.python.eager import context

    set_global_attribute(_KERAS_SEED, seed)
    set_global_attribute(_KERAS, None)
    random.seed(seed)
    np.random.seed(seed)
    eager = context.context()  # There is no public way either.
    eager._seed, eager._rng = seed, random.Random(seed)
