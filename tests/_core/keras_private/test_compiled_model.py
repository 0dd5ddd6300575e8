"""These fail when Keras moves what `_stacked_keras` reads."""

import keras
import numpy as np

from kerastools._core.keras_private.compiled_model import (
    built_metrics,
    compile_arguments,
    count_names_anew,
    per_row_metric,
)


def residual():
    inputs = keras.Input((4,), name="inputs")
    hidden = keras.layers.Dense(4, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Add(name="sum")([inputs, hidden]))


def test_names_are_counted_anew():
    keras.layers.Dense(1)
    count_names_anew()
    assert [keras.layers.Dense(1).name for _ in range(2)] == ["dense", "dense_1"]


def compiled(**arguments):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(**{"optimizer": "sgd", "loss": "mse"} | arguments)
    return model


def test_another_model_is_compiled_with_the_same_objects():
    def loss(y, prediction):
        return keras.ops.mean(keras.ops.abs(y - prediction))

    metric = keras.metrics.MeanSquaredError()
    first = compiled(loss=loss, metrics=[metric], run_eagerly=False)
    arguments = compile_arguments(first)
    assert arguments["loss"] is loss
    assert arguments["metrics"] == [metric]
    assert arguments["optimizer"] is first.optimizer
    second = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    second.compile(**arguments)
    assert second.optimizer is first.optimizer


def test_the_loss_scale_is_not_wrapped_twice():
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled()
    model.compile(**compile_arguments(model))
    assert not isinstance(model.optimizer.inner_optimizer, keras.optimizers.LossScaleOptimizer)


def test_a_metric_that_is_a_mean_over_rows_tells_its_function():
    y_true, y_pred = np.array([[0], [1]]), np.array([[0.9, 0.1], [0.8, 0.2]], "float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=["accuracy", keras.metrics.AUC()])
    accuracy, auc = built_metrics(model, y_true, y_pred)
    assert accuracy.name == "accuracy"
    assert per_row_metric(auc) is None
    values = keras.ops.convert_to_numpy(per_row_metric(accuracy)(y_true, y_pred))
    np.testing.assert_array_equal(values, [1.0, 0.0])
