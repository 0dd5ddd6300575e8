"""What goes wrong in plain Keras and not here: when layers are frozen, and in its optimizers.

Each test shows Keras's way failing first. When such a first half fails, Keras has learned it. The
second half lists where a class that has a name of Keras's leaves Keras's trajectory.
"""

import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kerastools import optimizers
from kerastools.acceleration import accelerate
from kerastools.callbacks import EvaluationWeights, FreezeSchedule, Phase
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


# Optimizers: where a class that has a name of Keras's leaves Keras's trajectory.

BOTH = (keras.optimizers, optimizers)


def walk(optimizer, gradients, start=(1.0, -2.0), dtype="float32", constraint=None):
    """Returns the weights after a step per gradient."""
    theta = keras.Variable(np.float32(start), dtype=dtype)
    theta.constraint = constraint
    for g in gradients:
        optimizer.apply([ops.cast(ops.convert_to_tensor(g), theta.dtype)], [theta])
    return np.array(ops.convert_to_numpy(ops.cast(theta, "float32")))


@pytest.mark.tensorflow  # On JAX Keras is right without warm-up and decay.
def test_schedule_free_adamw_follows_its_authors_rule():
    hessian = np.float32([1.0, 3.0, 10.0])
    ends = []
    for module in BOTH:
        theta = keras.Variable(np.float32([1.0, -2.0, 0.5]))
        optimizer = module.ScheduleFreeAdamW(0.05)
        for _ in range(20):
            optimizer.apply([ops.convert_to_tensor(hessian) * theta], [theta])
        ends.append(ops.convert_to_numpy(theta))
    authors = [0.49094682, -1.45738688, 0.06796929]  # The package schedulefree 1.4.1.
    assert np.abs(ends[0] - authors).max() > 0.03
    np.testing.assert_allclose(ends[1], authors, atol=1e-6)


def test_the_moving_average_is_of_constrained_weights():
    averages = []
    for module in BOTH:
        optimizer = module.SGD(1.0, use_ema=True)
        walk(optimizer, [[5.0, 5.0]], (1.0, 1.0), constraint=keras.constraints.NonNeg())
        averages.append(ops.convert_to_numpy(optimizer._model_variables_moving_average[0]))
    np.testing.assert_array_equal(averages[0], [-4.0, -4.0])
    np.testing.assert_array_equal(averages[1], [0.0, 0.0])


def test_the_moving_average_moves_once_per_update():
    averages = []
    for module in BOTH:
        options = {"use_ema": True, "ema_momentum": 0.5, "gradient_accumulation_steps": 2}
        optimizer = module.SGD(1.0, **options)
        weights = walk(optimizer, [[0.0, 0.0]] * 2 + [[1.0, 1.0]] * 2, (1.0, 1.0))
        np.testing.assert_allclose(weights, 0.0, atol=1e-6)
        averages.append(ops.convert_to_numpy(optimizer._model_variables_moving_average[0]))
    # After the second update the average of 1 and 0; Keras's moves in the micro-step before, too.
    np.testing.assert_allclose(averages[1], 0.5)
    assert JAX or averages[0][0] == pytest.approx(0.5)  # Here the weights had not moved between.


def test_fit_goes_on_from_the_trained_weights_not_from_their_average():
    def trained(module, *callbacks):
        one, two = (make_model(module.SGD(0.1, use_ema=True)) for _ in range(2))
        fit(one, *callbacks, epochs=4)
        for _ in range(2):
            fit(two, *callbacks, epochs=2)
        return np.abs(kernel(one, "a") - kernel(two, "a")).max()

    if JAX:  # Keras has left the weights and their averages one buffer.
        with pytest.raises(TypeError):
            trained(keras.optimizers)
    else:
        assert trained(keras.optimizers) > 1e-3
    assert trained(optimizers) == 0
    assert trained(optimizers, EvaluationWeights()) < 1e-6


def test_schedules_count_updates_under_gradient_accumulation():
    halves = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5, staircase=True)
    ends = [
        walk(module.SGD(halves, gradient_accumulation_steps=2), [[1.0, 1.0]] * 4, (0.0, 0.0))
        for module in BOTH
    ]
    np.testing.assert_allclose(ends[0], -(0.5 + 0.125))  # The rates of steps 1 and 3.
    np.testing.assert_allclose(ends[1], -(1.0 + 0.5))  # Of updates 0 and 1.


def test_a_variable_without_gradients_so_far_starts_with_steps_of_the_learning_rate():
    def first_step(module):
        early, late = keras.Variable([1.0]), keras.Variable([1.0])
        optimizer = module.Adam(0.01)
        optimizer.build([early, late])
        one = ops.ones(1)
        optimizer.iterations.assign(5000)
        optimizer.apply([one, one], [early, late])
        return 1 - float(ops.convert_to_numpy(late)[0])

    assert first_step(keras.optimizers) > 0.03
    assert first_step(optimizers) == pytest.approx(0.01, rel=1e-3)


def test_weights_of_half_precision_move():
    ends = [
        walk(module.Adam(0.01), [[1.0, -1.0]] * 5, (1.0, -2.0), dtype="bfloat16") for module in BOTH
    ]
    np.testing.assert_array_equal(ends[0], [1.0, -2.0])
    np.testing.assert_allclose(ends[1], [0.95, -1.95], atol=0.01)


def test_a_huge_gradient_is_clipped_and_a_bad_one_can_be_skipped():
    huge, bad = [[3e30, 4e30]], [[float("inf"), 1.0]]
    ends = [walk(module.SGD(1.0, clipnorm=1.0), huge, (0.0, 0.0)) for module in BOTH]
    np.testing.assert_array_equal(ends[0], [0.0, 0.0])
    np.testing.assert_allclose(ends[1], [-0.6, -0.8], rtol=1e-6)
    assert np.isnan(walk(keras.optimizers.SGD(1.0, global_clipnorm=1.0), bad)).all()
    skipping = optimizers.SGD(1.0, global_clipnorm=1.0, skip_nonfinite=True)
    np.testing.assert_array_equal(walk(skipping, bad), [1.0, -2.0])


@pytest.mark.tensorflow
def test_a_row_looked_up_twice_has_one_gradient():
    import tensorflow as tf

    sparse = tf.IndexedSlices(tf.constant([[1.0], [-1.0]]), [0, 0], [2, 1])
    squares = []
    for module in BOTH:
        optimizer, table = module.Adam(0.1), keras.Variable(np.ones((2, 1), "float32"))
        optimizer.apply([sparse], [table])
        slots = {v.path.split("_")[-1]: v for v in optimizer.variables}
        squares.append(float(ops.convert_to_numpy(slots["velocity"])[0, 0]))
    # The gradient is 1 − 1 = 0, and so is its square.
    assert squares[0] > 1e-3
    assert squares[1] == 0


def test_the_variance_of_centered_rmsprop_does_not_fall_below_zero():
    noise = np.random.RandomState(0).normal(size=(200, 2))
    steady = [np.float32(1000 * (1 + 1e-5 * row)) for row in noise]
    theirs, ours = (walk(module.RMSprop(centered=True), steady) for module in BOTH)
    assert np.isnan(theirs).any()
    assert np.isfinite(ours).all()


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from kerastools import optimizers
from kerastools.acceleration import accelerate

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for module in (keras.optimizers, optimizers):
    with strategy.scope():
        theta, optimizer = keras.Variable([0.0, 0.0]), module.SGD(1.0, clipnorm=1.0)
        optimizer.build([theta])

    @tf.function
    def step():
        def replica():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            g = tf.one_hot(number, 2) * 10.0
            optimizer.apply([g], [theta])
        strategy.run(replica)

    step()
    print(float(np.linalg.norm(keras.ops.convert_to_numpy(theta))))
"""


@pytest.mark.tensorflow
def test_the_sum_over_replicas_is_clipped_not_each_part():
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    theirs, ours = map(float, done.stdout.split()[-2:])
    assert theirs == pytest.approx(2**0.5, rel=1e-5)
    assert ours == pytest.approx(1, rel=1e-5)


@pytest.mark.tensorflow  # On JAX a step begins when there is a batch.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_end_of_data_of_unknown_length_draws_no_dropout_mask():
    import tensorflow as tf

    def masks_drawn(known_length, accelerated):
        dropout = keras.layers.Dropout(0.5, seed=1)
        model = keras.Sequential([keras.Input((4,)), dropout, keras.layers.Dense(4)])
        model.compile("sgd", "mse")
        if accelerated:
            accelerate(model)
        batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
        if not known_length:
            batches = batches.filter(lambda x, y: True)
        model.fit(batches, epochs=2, shuffle=False, verbose=0)
        return int(dropout.seed_generator.state[1])

    assert masks_drawn(known_length=True, accelerated=False) == 16
    before_3_16 = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16)
    assert masks_drawn(known_length=False, accelerated=False) == (18 if before_3_16 else 16)
    assert masks_drawn(known_length=False, accelerated=True) == 16
