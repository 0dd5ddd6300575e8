"""Fails when Keras moves one of the hooks that `OptimizerHooks` stands on."""

import keras
import numpy as np
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import OptimizerHooks


class Recorder(OptimizerHooks):
    """Doubles each gradient in `clip_gradients` and records what arrives."""

    def __init__(self):
        super().__init__(learning_rate=0.1, weight_decay=0.5)
        self.seen = []

    def clip_gradients(self, gradients):
        return [2 * g for g in gradients]

    def update_step(self, gradient, variable, learning_rate):
        self.seen.append((self.index_of(variable), self.decays(variable), gradient))


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
