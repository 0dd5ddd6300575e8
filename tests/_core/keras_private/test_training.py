"""What `compile` was given and where `fit` begins: fails when Keras moves either."""

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.training import begin_at_epoch, compile_arguments, is_detached


def small_model(**arguments):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(**{"optimizer": "sgd", "loss": "mse"} | arguments)
    return model


def test_another_model_is_compiled_with_the_same_objects():
    def loss(y, prediction):
        return keras.ops.mean(keras.ops.abs(y - prediction))

    metric = keras.metrics.MeanSquaredError()
    first = small_model(loss=loss, metrics=[metric], run_eagerly=False)
    arguments = compile_arguments(first)
    assert arguments["loss"] is loss
    assert arguments["metrics"] == [metric]
    assert arguments["optimizer"] is first.optimizer
    second = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    second.compile(**arguments)
    assert second.optimizer is first.optimizer


def test_the_loss_scale_is_not_wrapped_twice():
    keras.config.set_dtype_policy("mixed_float16")
    model = small_model()
    model.compile(**compile_arguments(model))
    assert not isinstance(model.optimizer.inner_optimizer, keras.optimizers.LossScaleOptimizer)


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
