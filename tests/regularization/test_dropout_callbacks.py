import keras
import numpy as np
import pytest
from keras import ops

from kerastools.layers import AlphaDropout, Dropout, SpatialDropout1D
from kerastools.regularization import AdaptiveDropout, DropoutSchedule


class Counter(keras.layers.Layer):
    """Counts how often Python runs its call: once per trace."""

    traces = 0

    def call(self, x):
        Counter.traces += 1
        return x


def share_of_zeros(y_true, y_pred):
    return ops.mean(ops.cast(y_pred == 0, "float32"), axis=-1) + 0.0 * ops.mean(y_pred, axis=-1)


def model_that_reports_zeros(layer):
    dense = keras.layers.Dense(2000, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((3, 1)), Counter(), dense, layer])
    model.compile(keras.optimizers.SGD(0.0), share_of_zeros)
    return model


@pytest.mark.parametrize("cls", [Dropout, SpatialDropout1D])
def test_compiled_fit_drops_what_the_schedule_says_in_one_trace(cls):
    model = model_that_reports_zeros(cls(0.0, seed=3))
    x = np.ones((64, 3, 1), "float32")
    Counter.traces = 0
    model.fit(x, x, batch_size=16, epochs=1, verbose=0)
    traces = Counter.traces
    schedule = DropoutSchedule([(1, 0.8), (3, 0.2), (4, 0.2), (4, 0.5)])
    history = model.fit(x, x, batch_size=16, epochs=6, verbose=0, callbacks=[schedule]).history
    expected = [0.8, 0.8, 0.5, 0.2, 0.5, 0.5]
    assert history["dropout"] == pytest.approx(expected)
    np.testing.assert_allclose(history["loss"], expected, atol=0.02)
    assert Counter.traces == traces


def test_early_and_late_are_those_of_the_paper():
    early, late = DropoutSchedule.early(0.1, 50), DropoutSchedule.late(0.4, 50)
    assert [early.rate(e) for e in (0, 25, 50, 99)] == pytest.approx([0.1, 0.05, 0, 0])
    assert [late.rate(e) for e in (0, 49, 50, 99)] == [0, 0, 0.4, 0.4]


def test_a_schedule_prints_its_points():
    text = repr(DropoutSchedule([(1, 0.8), (3, 0.2)]))
    assert [line.split() for line in text.splitlines()[3:]] == [["1", "0.8"], ["3", "0.2"]]


def test_only_the_layers_that_are_named_are_set():
    parts = [Dropout(0.5, name="low"), keras.layers.Dense(3), AlphaDropout(0.5, name="high")]
    model = keras.Sequential([keras.Input((2,)), *parts, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((4, 2))
    schedule, seen = DropoutSchedule([(0, 0.25)], layers="high"), []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append([parts[0].rate, parts[2].rate])
    )
    model.fit(x, x[:, :1], verbose=0, callbacks=[schedule, look])
    assert seen == [[0.5, 0.25]]
    assert [parts[0].rate, parts[2].rate] == [0.5, 0.5]


class Losses(keras.callbacks.Callback):
    """Puts given losses in the logs, so that the gap is known."""

    def __init__(self, pairs):
        super().__init__()
        self.pairs = pairs

    def on_epoch_end(self, epoch, logs=None):
        logs["loss"], logs["val_loss"] = self.pairs[epoch]


def rates(pairs, body=(), **arguments):
    model = keras.Sequential([keras.Input((4, 4)), *body, Dropout(0.3), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((2, 4, 4)), np.ones((2, 1) if body else (2, 4, 1))
    callbacks = [Losses(pairs), AdaptiveDropout(**arguments)]
    history = model.fit(x, y, epochs=len(pairs), verbose=0, callbacks=callbacks)
    return history.history["dropout"]


def test_the_rate_follows_the_gap_within_its_bounds():
    overfit, underfit, neither = (1.0, 1.3), (1.0, 0.8), (1.0, 1.05)
    assert rates([overfit, neither, underfit, neither]) == pytest.approx([0.3, 0.35, 0.35, 0.3])
    assert rates([overfit] * 9)[-1] == 0.5
    assert rates([underfit] * 9)[-1] == 0.1
    assert rates([underfit] * 9, bounds=(0.0, 0.4), step=0.2)[-1] == 0.0
    # A loss below 0 has a gap too.
    assert rates([(-1.0, -0.5)] * 2)[-1] == pytest.approx(0.35)


def test_the_bounds_are_those_of_the_kind_of_net():
    recurrent, convolutional = [keras.layers.LSTM(3)], [keras.layers.Conv1D(3, 4)]
    convolutional.append(keras.layers.Flatten())
    assert rates([(1.0, 2.0)] * 6, recurrent)[-1] == 0.3
    assert rates([(1.0, 0.5)] * 6, recurrent)[-1] == 0.2
    assert rates([(1.0, 0.5)] * 2, convolutional) == [0.4, 0.4]


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="pairs"):
        DropoutSchedule([(5, 0.1), (2, 0.3)])
    with pytest.raises(ValueError, match="pairs"):
        DropoutSchedule([(0, 1.1)])
    with pytest.raises(ValueError, match="bounds"):
        AdaptiveDropout(bounds=(0.5, 0.2))
    with pytest.raises(ValueError, match="step"):
        AdaptiveDropout(step=0)
    x = np.ones((4, 2))
    for parts, callback, message in [
        ([keras.layers.Dropout(0.5)], DropoutSchedule.early(0.1, 2), "mutable"),
        ([Dropout(0.5)], AdaptiveDropout(), "validation_data"),
    ]:
        model = keras.Sequential([keras.Input((2,)), *parts, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match=message):
            model.fit(x, x[:, :1], verbose=0, callbacks=[callback])
