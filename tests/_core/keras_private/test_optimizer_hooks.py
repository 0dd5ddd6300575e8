"""Fails when Keras moves one of the hooks that `OptimizerHooks` stands on."""

import keras
import numpy as np
import pytest
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import OptimizerHooks, compiles_with_xla


class Recorder(OptimizerHooks):
    """Doubles each gradient in `_clip_all` and records what arrives."""

    def __init__(self):
        super().__init__(learning_rate=0.1, weight_decay=0.5)
        self.seen = []

    def _clip_all(self, gradients):
        return [2 * g for g in gradients]

    def update_step(self, gradient, variable, learning_rate):
        self.seen.append((self._index_of(variable), self._decays(variable), gradient))


def test_keras_calls_the_hooks():
    a, b = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer = Recorder()
    optimizer.exclude_from_weight_decay(var_list=[b])
    g = ops.convert_to_tensor([3.0])
    optimizer.apply([g, g], [a, b])
    assert [(int(i), decays) for i, decays, _ in optimizer.seen] == [(0, True), (1, False)]
    assert [float(gradient[0]) for *_, gradient in optimizer.seen] == [6.0, 6.0]
    # Keras's own weight decay would have shrunk it before the update.
    np.testing.assert_array_equal(ops.convert_to_numpy(a), [1.0])


@pytest.mark.tensorflow
def test_a_trace_for_xla_is_known_at_any_depth():
    import tensorflow as tf

    seen = {}

    def note(name):
        seen[name] = compiles_with_xla()
        return tf.constant(0)

    note("eager")
    tf.function(lambda: note("graph"))()
    tf.function(lambda: note("xla"), jit_compile=True)()
    inner = tf.function(lambda: note("inside"))
    tf.function(lambda: inner(), jit_compile=True)()
    compiled = tf.function(lambda: note("below"), jit_compile=True)
    tf.function(lambda: compiled())()
    wanted = {"eager": False, "graph": False, "xla": True, "inside": True, "below": True}
    assert seen == wanted
