import keras
import numpy as np
import pytest
from keras import ops

from kerastools.constraints import MaxNorm
from kerastools.regularization import HoldConstraints


def final_norm(*callbacks):
    layer = keras.layers.Dense(3, kernel_initializer="zeros", kernel_constraint=MaxNorm(0.5))
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile(keras.optimizers.SGD(0.3, use_ema=True, ema_momentum=0.9), "mse")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(64, 4)), 10 * rng.normal(size=(64, 3))
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=list(callbacks))
    w = ops.convert_to_numpy(layer.kernel).astype("float64")
    return np.sqrt((w**2).sum(axis=0)).max()


def test_averaged_weights_keep_the_bound():
    assert final_norm() > 0.55  # Keras alone.
    assert final_norm(HoldConstraints()) == pytest.approx(0.5, rel=1e-6)
