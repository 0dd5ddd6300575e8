"""Nine things that go wrong when layers are frozen in plain Keras, and do not go wrong here.

Each test shows Keras's way failing first. When such a first half fails, Keras has learned it.
"""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from kerastools.callbacks import FreezeSchedule, Phase
from kerastools.optimizers import rebind

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")
JAX = keras.backend.backend() == "jax"
EAGERLY = not JAX


def make_model(optimizer=None, norm=False, **compile_arguments):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, name=name) for name in "ab"]
    if norm:
        layers.insert(1, keras.layers.BatchNormalization(momentum=0.2, name="norm"))
    layers = [keras.Input((4,)), *layers, keras.layers.Dense(4, name="head")]
    model = keras.Sequential(layers, name="net")
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **compile_arguments)
    return model


def fit(model, *callbacks, epochs=1, **arguments):
    settings = {"batch_size": 16, "shuffle": False, "verbose": 0} | arguments
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **settings)


def kernel(model, name):
    return np.array(ops.convert_to_numpy(model.get_layer(name).kernel))


class Watch(keras.callbacks.Callback):
    """Keeps what `read` returns at both ends of each epoch."""

    def __init__(self, read):
        super().__init__()
        self.read, self.begins, self.ends = read, [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append(self.read(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.read(self.model))


def moved(watch):
    return [not np.array_equal(a, b) for a, b in zip(watch.begins, watch.ends, strict=True)]


def flip(name, trainable, at=1):
    def set_flag(epoch, logs):
        if epoch == at:
            callback.model.get_layer(name).trainable = trainable

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=set_flag)
    return callback


def test_1_a_flag_that_changes_during_fit_is_not_silently_ignored():
    model = make_model()
    watch = Watch(lambda m: kernel(m, "a"))
    if JAX:
        with pytest.raises(ValueError):  # noqa: PT011
            fit(model, flip("a", False), epochs=2)
    else:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            fit(model, flip("a", False), watch, epochs=2)
        # The warning that Keras means to give never comes.
        assert not [w for w in seen if "trainable" in str(w.message)]
        assert moved(watch) == [True, True]
    model, watch = make_model(), Watch(lambda m: kernel(m, "a"))
    fit(model, FreezeSchedule([Phase("all", 1), Phase("b|head")]), watch, epochs=2)
    assert moved(watch) == [True, False]


def test_2_averaged_weights_do_not_end_in_another_layer():
    def ema():
        return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)

    model = make_model(ema(), run_eagerly=EAGERLY)
    fit(model)
    model.get_layer("a").trainable = False
    before = [kernel(model, name) for name in "ab"]
    if JAX:
        with pytest.raises(ValueError):  # noqa: PT011
            fit(model)
    else:
        model.make_train_function(force=True)
        fit(model)
        # b has become the average of a.
        assert np.abs(kernel(model, "b") - before[0]).max() < 1e-6
        assert np.abs(before[1] - before[0]).max() > 0.1
    model = make_model(ema(), run_eagerly=EAGERLY)
    fit(model, FreezeSchedule([Phase("all", 1), Phase("b|head")]), epochs=2)
    assert np.abs(kernel(model, "b") - kernel(model, "a")).max() > 0.1


def test_3_what_frozen_batch_norm_does_is_the_same_in_every_version():
    def wrapped(**arguments):
        trunk, inputs = make_model(norm=True), keras.Input((4,))
        outputs = keras.layers.Dense(4, name="top")(trunk(inputs, **arguments))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse", run_eagerly=EAGERLY)
        return model, Watch(lambda m: trunk.get_layer("norm").moving_mean.numpy().copy())

    model, watch = wrapped(training=False)
    fit(model, watch)
    # In functional models up to 3.15 training=False is ignored; from 3.16 on it is obeyed.
    before_3_16 = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16)
    assert moved(watch) == [before_3_16]
    for policy, moves in (("inference", False), ("train", True)):
        model, watch = wrapped()
        fit(model, FreezeSchedule([Phase("top")], policy), watch)
        assert moved(watch) == [moves]


def test_4_unfreezing_recalibrated_batch_norm_does_not_shift_the_features():
    """At learning rate 0, on data unlike those of the pretraining."""
    x = 5 * X + 3
    changes = {}
    for policy, data in (("inference", None), ("recalibrate", x)):
        model = make_model(norm=True, run_eagerly=EAGERLY)
        model.optimizer.learning_rate = 0.0
        schedule = FreezeSchedule([Phase("head", 1), Phase("all")], policy, data)
        losses = Watch(lambda m: m.evaluate(x, Y, verbose=0))
        model.fit(x, Y, batch_size=16, epochs=3, callbacks=[schedule, losses], verbose=0)
        changes[policy] = abs(losses.ends[-1] / losses.ends[0] - 1)
    # The moving statistics of "inference" do what Keras's do on unfreezing.
    assert changes["inference"] > 0.3
    assert changes["recalibrate"] < 0.1


def test_5_a_late_joiner_does_not_step_by_several_learning_rates():
    model = make_model(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    model.optimizer.iterations.assign(2000)
    before = kernel(model, "a")
    model.train_on_batch(X, Y)  # A slot that begins at 0 in step 2000.
    assert np.abs(kernel(model, "a") - before).max() > 2.5e-3

    model = make_model(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    model.get_layer("a").trainable = False
    rebind(model.optimizer, model)
    model.optimizer.iterations.assign(2000)
    model.get_layer("a").trainable = True
    rebind(model.optimizer, model)
    before = kernel(model, "a")
    model.train_on_batch(X, Y)
    assert np.abs(kernel(model, "a") - before).max() <= 1e-3 * 1.001


def test_6_the_kernel_under_a_lora_update_stays_frozen():
    model = make_model(run_eagerly=EAGERLY)
    layer = model.get_layer("a")
    layer.enable_lora(2)
    layer.trainable = False
    layer.trainable = True
    assert any(v is layer._kernel for v in layer.trainable_weights)
    model = make_model(run_eagerly=EAGERLY)
    layer = model.get_layer("a")
    layer.enable_lora(2)
    before = np.array(ops.convert_to_numpy(layer._kernel))
    fit(model, FreezeSchedule([Phase("head", 1), Phase("all")]), epochs=2)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer._kernel), before)
    assert np.any(ops.convert_to_numpy(layer.lora_kernel_b))


def test_7_a_model_saved_while_half_frozen_keeps_the_state_of_its_optimizer(tmp_path):
    model = make_model(keras.optimizers.Adam(0.01), run_eagerly=EAGERLY)
    fit(model)
    model.get_layer("a").trainable = False
    model.save(tmp_path / "plain.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        plain = keras.saving.load_model(tmp_path / "plain.keras")
    assert int(plain.optimizer.iterations) == 0

    model = make_model(keras.optimizers.Adam(0.01), run_eagerly=EAGERLY)
    fit(model, FreezeSchedule([Phase("all", 1), Phase("b|head")]), epochs=2)
    model.save(tmp_path / "ours.keras")
    loaded = keras.saving.load_model(tmp_path / "ours.keras")
    assert int(loaded.optimizer.iterations) == 4
    ours, theirs = model.optimizer.variables, loaded.optimizer.variables
    assert len(ours) == 2 + 2 * 4  # Iterations, learning rate, two slots of four variables.
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


def test_8_a_frozen_parent_does_not_hide_children_that_train():
    trunk = make_model()
    model = keras.Sequential([keras.Input((4,)), trunk, keras.layers.Dense(4, name="top")])
    trunk.trainable = False
    trunk.get_layer("b").trainable = True
    assert not trunk.trainable_variables
    assert any(v is trunk.get_layer("b").kernel for v in model.trainable_variables)
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    watch = Watch(lambda m: kernel(trunk, "b"))
    fit(model, FreezeSchedule([Phase("b|top")]), watch)
    assert moved(watch) == [True]
    assert [v.path.split("/")[-2] for v in trunk.trainable_variables] == ["b", "b"]


def test_9_an_optimizer_per_group_of_layers_survives_freezing():
    multi = getattr(keras.optimizers, "MultiOptimizer", None)
    if multi is None:
        pytest.skip("this Keras has no MultiOptimizer")
    model = make_model(make_multi(multi), run_eagerly=EAGERLY)
    fit(model)
    model.get_layer("a").trainable = False
    model.make_train_function(force=True)
    with pytest.raises(Exception):  # noqa: B017, PT011
        fit(model)
    model = make_model(make_multi(multi), run_eagerly=EAGERLY)
    watch = Watch(lambda m: kernel(m, "a"))
    fit(model, FreezeSchedule([Phase("all", 1), Phase("b|head")]), watch, epochs=2)
    assert moved(watch) == [True, False]


def make_multi(multi):
    sgd, adam = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01)
    return multi(lambda variable: adam if "head" in variable.path else sgd)
