"""Where `fit` begins and what it calls: fails when Keras moves either."""

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.training import begin_at_epoch, is_detached, is_inside_fit


def small_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_fit_begins_at_the_epoch_that_a_callback_says():
    class Skip(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begin_at_epoch(self.model, 3)

    history = small_model().fit(
        np.ones((4, 2)), np.ones((4, 1)), epochs=5, callbacks=[Skip()], verbose=0
    )
    assert history.epoch == [3, 4]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX only")
def test_jax_holds_the_state_within_an_epoch():
    model = small_model()
    kernel = model.layers[0].kernel
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(is_detached(kernel))
            self.model.jax_state_sync()
            seen.append(is_detached(kernel))

    model.fit(np.ones((4, 2)), np.ones((4, 1)), callbacks=[Look()], verbose=0)
    assert seen == [True, False]
    assert not is_detached(kernel)


def test_the_validation_of_fit_is_known_from_an_evaluation_of_the_user():
    told = []

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def evaluate(self, *args, **kwargs):
            told.append(is_inside_fit(kwargs))
            return super().evaluate(*args, **kwargs)

    model, data = Model(), (np.ones((4, 2)), np.ones((4, 1)))
    model.compile("sgd", "mse")
    model.fit(*data, validation_data=data, verbose=0)
    model.evaluate(*data, verbose=0)
    assert told == [True, False]
