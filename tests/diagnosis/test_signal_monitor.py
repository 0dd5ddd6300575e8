import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.diagnosis import SignalMonitor
from kerastools.diagnosis._probe.signals import measure

RNG = np.random.default_rng(1)
X = RNG.normal(size=(64, 8)).astype("float32")
Y = RNG.normal(size=(64, 1)).astype("float32")


def net(optimizer="sgd"):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, activation="relu", name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.3),
            layers.Dense(5, name="b"),
            layers.Activation("tanh", name="t"),
            layers.Dense(1, name="output"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def fit(model, *callbacks, epochs=1, **arguments):
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks),
        **arguments,
    )  # fmt: skip


def test_the_figures_are_those_of_a_training_step():
    model = net()
    _, records = measure(model, X, Y, lambda y, p: ops.mean((y - p) ** 2), "test")
    monitor = SignalMonitor(X, Y, every=100)
    fit(model, monitor)
    by_path = {r.path: r for r in records}
    assert monitor.layers == ["a", "b", "t", "output"]
    for i, path in enumerate(monitor.layers):
        record, output = by_path[path], by_path[path].output.astype("float64")
        got = {name: values[0, i] for name, values in monitor.figures.items()}
        assert got["second_moment"] == pytest.approx((output**2).mean(), rel=1e-5)
        if record.kernels:
            gradient = np.linalg.norm(record.gradients[0].astype("float64"))
            assert got["gradient_norm"] == pytest.approx(gradient, rel=1e-4)
            assert got["weight_norm"] == pytest.approx(np.linalg.norm(record.kernels[0]), rel=1e-5)
        else:
            assert np.isnan(got["gradient_norm"])
    figures = monitor.figures
    assert figures["dead"][0, 0] == (by_path["a"].output == 0).all(axis=0).mean()
    assert figures["saturated"][0, 2] == pytest.approx((abs(by_path["t"].output) > 0.95).mean())
    assert np.isnan(figures["dead"][0, 1:]).all()


def test_training_is_not_disturbed_and_the_model_is_left_as_it_was():
    plain, watched = net(), net()
    fit(plain, epochs=2)
    monitor = SignalMonitor(X[:16], Y[:16], every=3)
    fit(watched, monitor, epochs=2)
    for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert monitor.steps == [0, 3, 6, 9, 12, 15]
    assert "compute_loss" not in vars(watched)
    fit(watched, monitor)
    assert monitor.steps[-2:] == [18, 21]
    assert monitor.culprit is None


def test_the_first_layer_that_is_not_finite_is_named_and_training_stops(capsys):
    class Poison(keras.callbacks.Callback):
        """Puts an infinity into one weight before the last batch of the second epoch."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kernel = self.model.get_layer("b").kernel
                values = np.array(ops.convert_to_numpy(kernel))
                values[0, 0] = np.inf
                kernel.assign(values)

    model, monitor = net(), SignalMonitor(X, Y, every=1000)
    history = fit(model, Poison(), monitor, epochs=5)
    assert monitor.culprit == "b"
    assert len(history.epoch) == 2
    told = capsys.readouterr().out
    assert "first in b" in told
    assert "weights" in told


def test_an_overflow_in_training_is_named_too():
    model, monitor = net(keras.optimizers.SGD(1e30)), SignalMonitor(X, Y, every=2)
    fit(model, monitor, epochs=3)
    assert monitor.culprit is not None
    assert len(monitor.steps) < 8


def test_it_works_with_several_steps_in_one_call():
    model, monitor = net(), SignalMonitor(X, Y, every=2)
    model.compile("sgd", "mse", steps_per_execution=4)
    fit(model, monitor, epochs=2)
    assert monitor.steps == [0, 4, 8, 12]


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 2])
def test_a_loss_that_the_user_has_put_on_the_model_stays(number):
    model = net(keras.optimizers.SGD(0.0))
    plain = model.compute_loss

    def with_constant(x, y, y_pred, sample_weight=None, training=True):
        loss = plain(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        return loss + 100.0

    model.compute_loss = with_constant
    monitors = [SignalMonitor(X, Y, every=2) for _ in range(number)]
    assert fit(model, *monitors).history["loss"][0] > 100
    assert vars(model)["compute_loss"] is with_constant
    assert "fit" not in vars(model)
    with pytest.raises(KeyboardInterrupt):
        fit(model, *monitors, Interrupt())
    assert fit(model).history["loss"][0] > 100
    assert vars(model)["compute_loss"] is with_constant
    assert "fit" not in vars(model)


def test_a_loss_that_does_not_take_training_is_watched():
    class Own(keras.Sequential):
        def compute_loss(self, x, y, y_pred, sample_weight=None):
            return ops.mean((y - y_pred) ** 2)

    model = Own([keras.Input((8,)), layers.Dense(1, name="output")])
    model.compile(keras.optimizers.SGD(1e30), "mse")
    monitor = SignalMonitor(X, Y, every=2)
    fit(model, monitor, epochs=3)
    assert monitor.culprit is not None


def test_the_heat_map_shows_layers_over_time(tmp_path):
    pytest.importorskip("matplotlib")
    monitor = SignalMonitor(X, Y, every=2)
    with pytest.raises(ValueError, match="trained with it"):
        monitor.plot()
    fit(net(), monitor)
    axes = monitor.plot(tmp_path / "gradients.png").axes[0]
    assert (tmp_path / "gradients.png").stat().st_size > 5000
    picture = axes.get_images()[0].get_array()
    assert picture.shape == (3, 4)  # Three layers have kernels.
    gradients = monitor.figures["gradient_norm"]
    np.testing.assert_allclose(picture[0], np.log10(gradients[:, 0]), rtol=1e-5)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "output"]
    dead = monitor.plot(figure="dead").axes[0].get_images()[0]
    assert dead.get_clim() == (0, 1)
    with pytest.raises(ValueError, match="gradient_norm"):
        monitor.plot(figure="gradients")


@pytest.mark.tensorflow
def test_tensorboard_gets_every_figure(tmp_path):
    import tensorflow as tf

    fit(net(), SignalMonitor(X, Y, every=4, log_dir=tmp_path))
    (file,) = tmp_path.glob("events*")
    events = tf.compat.v1.train.summary_iterator(str(file))
    tags = {(v.tag, event.step) for event in events for v in event.summary.value}
    assert ("gradient_norm/a", 4) in tags
    assert ("saturated/t", 0) in tags
    assert ("dead/b", 0) not in tags


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="every"):
        SignalMonitor(X, Y, every=0)
    with pytest.raises(ValueError, match="finite"):
        SignalMonitor(X * np.nan, Y)
    with pytest.raises(ValueError, match="shape"):
        fit(net(), SignalMonitor(X, np.ones((64, 3))))
