"""The accelerated fit is Keras's fit: same weights, history and callbacks, whatever the data."""

import os

import keras
import numpy as np
import pytest

from kerastools.acceleration import accelerate
from kerastools.acceleration._each_batch import may_end_early
from kerastools.callbacks import HyperparameterScheduler
from kerastools.layers import Dropout
from kerastools.optimizers import SGD

TENSORFLOW = keras.backend.backend() == "tensorflow"
only_tensorflow = pytest.mark.skipif(not TENSORFLOW, reason="TensorFlow's by nature")


def data(rows=150, features=6, classes=3):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, features)).astype("float32")
    return x, (np.abs(x[:, 0] + x[:, 1]) * 1.3).astype("int64") % classes


def net(*hidden, optimizer=None, **compiling):
    """Returns a small classifier; equal weights each time, also where `hidden` was made before."""
    keras.utils.set_random_seed(5)
    hidden = hidden or (keras.layers.Dense(8, activation="tanh"),)
    model = keras.Sequential([keras.Input((6,)), *hidden, keras.layers.Dense(3)])
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=variable.shape[0] ** -0.5, size=variable.shape))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), loss, **compiling)
    return model


def adam_net():
    return net(optimizer=keras.optimizers.Adam(0.01), metrics=["accuracy"])


def pair(build=net, steps=7, **options):
    """Returns two equal models, the second accelerated."""
    return build(), accelerate(build(), steps, **options)


def variables(model):
    return [*model.weights, *model.optimizer.variables]


@pytest.fixture(scope="module")
def traced():
    """Two equal models, the second accelerated, and the values they began with."""
    keras.utils.set_random_seed(20)
    models = pair(lambda: net(metrics=["accuracy"]))
    for model in models:
        model.optimizer.build(model.trainable_variables)
    return models, [[np.array(v) for v in variables(model)] for model in models]


@pytest.fixture
def shared(traced):
    """The same two models as they were in the beginning, but traced already: tracing is dear."""
    for model, begun in zip(*traced, strict=True):
        for variable, value in zip(variables(model), begun, strict=True):
            variable.assign(value)
        model.stop_training = False
    return traced[0]


def seeded_fit(model, *args, **kwargs):
    keras.utils.set_random_seed(9)
    history = model.fit(*args, **{"verbose": 0, "batch_size": 16, **kwargs})
    return history.history


def assert_same_training(plain, fast, *args, tolerance=1e-5, **kwargs):
    """Fits both and compares histories, weights, optimizer state and predictions."""
    x, y = data()
    args = args or (x, y)
    trainings = [training(model, *args, **kwargs) for model in (plain, fast)]
    assert_equal_trainings(*trainings, tolerance)
    return trainings[1][0]


def training(model, *args, **kwargs):
    """Fits; returns the history and all state."""
    history = seeded_fit(model, *args, **kwargs)
    return history, [
        *model.get_weights(),
        *map(keras.ops.convert_to_numpy, model.optimizer.variables),
    ]


def assert_equal_trainings(plain, fast, tolerance=1e-5):
    assert list(plain[0]) == list(fast[0])
    for name, values in plain[0].items():
        np.testing.assert_allclose(fast[0][name], values, rtol=tolerance, err_msg=name)
    for a, b in zip(plain[1], fast[1], strict=True):
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)


def assert_same_weights(plain, fast):
    for a, b in zip(plain.get_weights(), fast.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)


@pytest.fixture(scope="module")
def two_hundred_steps():
    """Keras's training: 20 epochs of 10 batches, the last of them of 6 rows."""
    x, y = data()
    options = {"epochs": 20, "validation_data": (x[:40], y[:40])}
    return options, training(adam_net(), x, y, **options)


@pytest.mark.parametrize("steps", [7, "auto"])
def test_weights_after_200_steps_and_history_are_those_of_fit(steps, two_hundred_steps):
    options, plain = two_hundred_steps
    fast = training(accelerate(adam_net(), steps), *data(), **options)
    assert_equal_trainings(plain, fast)
    history = fast[0]
    assert history["loss"][-1] < history["loss"][0]
    assert len(history["val_accuracy"]) == 20


def test_deep_net_follows_the_same_trajectory_through_xla():
    def build():
        # A rate at which training is stable: otherwise it amplifies XLA's rounding (1e-7) without
        # bound, as it would any other.
        layers = [keras.layers.Dense(20, activation="elu") for _ in range(6)]
        return net(*layers, optimizer=keras.optimizers.SGD(0.01))

    plain, fast = pair(build, xla=True)
    assert_same_training(plain, fast, epochs=20)
    assert "XLA" in str(fast.acceleration) or not TENSORFLOW


def test_recurrent_net_follows_the_same_trajectory():
    def build():
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((5, 2)), keras.layers.LSTM(4), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    x = np.random.default_rng(0).normal(size=(64, 5, 2)).astype("float32")
    plain = training(build(), x, x[:, 0, :1], epochs=3)
    for xla in (False, True) if TENSORFLOW else (False,):
        fast = training(accelerate(build(), 7, xla=xla), x, x[:, 0, :1], epochs=3)
        assert_equal_trainings(plain, fast)


def test_sample_weights():
    weights = np.linspace(0, 2, 150, dtype="float32")
    assert_same_training(
        *pair(lambda: net(weighted_metrics=["accuracy"])), sample_weight=weights, epochs=3
    )


def test_class_weights(shared):
    assert_same_training(*shared, class_weight={0: 1.0, 1: 3.0, 2: 0.2}, epochs=3)


def test_validation_split_cuts_where_keras_cuts(shared):
    history = assert_same_training(*shared, validation_split=0.2, epochs=3)
    assert len(history["val_loss"]) == 3


def test_without_shuffling(shared):
    assert_same_training(*shared, shuffle=False, epochs=3)


def test_shuffling_inside_batches_only(shared):
    assert_same_training(*shared, shuffle="batch", epochs=2)


def test_fewer_rows_than_a_batch(shared):
    x, y = data(10)
    assert_same_training(*shared, x, y, epochs=3)


def test_steps_per_epoch_goes_on_in_the_data(shared):
    assert_same_training(*shared, steps_per_epoch=5, epochs=4)


class Blocks(keras.utils.PyDataset):
    """Ten batches of 15 rows; counts its epochs."""

    def __init__(self):
        super().__init__()
        self.x, self.y = data()
        self.epochs = 0

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return self.x[15 * i : 15 * i + 15], self.y[15 * i : 15 * i + 15]

    def on_epoch_end(self):
        self.epochs += 1


def test_py_dataset(shared):
    blocks = Blocks(), Blocks()
    plain, fast = shared
    for model, dataset in zip((plain, fast), blocks, strict=True):
        seeded_fit(model, dataset, shuffle=False, epochs=3, batch_size=None)
    assert_same_weights(plain, fast)
    assert blocks[0].epochs == blocks[1].epochs


def batches_of(x, y, size=15):
    while True:
        for i in range(0, len(x), size):
            yield x[i : i + size], y[i : i + size]


def test_generators(shared):
    plain, fast = shared
    for model in (plain, fast):
        seeded_fit(
            model, batches_of(*data()), epochs=3, steps_per_epoch=8, batch_size=None, shuffle=False
        )
    assert_same_weights(plain, fast)
    assert int(fast.optimizer.iterations) == 24


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("known_length", [True, False])
def test_tf_data(known_length, shared):
    import tensorflow as tf

    for model in shared:
        keras.utils.set_random_seed(9)
        dataset = tf.data.Dataset.from_tensor_slices(data()).shuffle(50).batch(16)
        if not known_length:
            dataset = dataset.filter(lambda x, y: True)
        model.fit(dataset, epochs=3, shuffle=False, verbose=0, validation_data=dataset.take(3))
    assert_same_weights(*shared)


def test_batches_of_varying_lengths():
    def build():
        keras.utils.set_random_seed(5)
        pool = keras.layers.GlobalAveragePooling1D()
        model = keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(4), pool])
        model.compile("adam", "mse")
        return model

    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(8, 3 + (i + 3) // 4 % 3, 2)).astype("float32") for i in range(24)]

    def endless():
        while True:
            yield from ((x, np.ones((8, 4), "float32")) for x in batches)

    plain, fast = pair(build)
    for model in (plain, fast):
        model.fit(endless(), steps_per_epoch=24, epochs=2, shuffle=False, verbose=0)
    assert_same_weights(plain, fast)


def test_several_inputs_and_outputs():
    def build():
        keras.utils.set_random_seed(5)
        a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
        both = keras.layers.Concatenate()([a, b])
        outputs = {"p": keras.layers.Dense(1, name="p")(both), "q": keras.layers.Dense(2)(both)}
        model = keras.Model({"a": a, "b": b}, outputs)
        model.compile("adam", {"p": "mse", "q": "mae"})
        return model

    # Whole batches: on TensorFlow Keras weighs a smaller one, in the losses of single outputs, as
    # a full one up to 3.15 and as one row from 3.16 on.
    x, _ = data(rows=144)
    targets = {"p": x[:, :1], "q": x[:, 1:3]}
    assert_same_training(*pair(build), {"a": x, "b": x[::-1].copy()}, targets, epochs=3)


def test_gradient_accumulation():
    def build():
        return net(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=3))

    assert_same_training(*pair(build), epochs=2)  # 20 steps; some updates span two calls.


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    plain, fast = pair()
    # Half precision rounds to 3 digits; the same operations in the same order round alike.
    assert_same_training(plain, fast, epochs=3, tolerance=2e-3)


def test_learning_rate_set_between_epochs_is_live(shared):
    def schedule(epoch, rate):
        return 0.02 / (epoch + 1)

    assert_same_training(
        *shared, epochs=4, callbacks=[keras.callbacks.LearningRateScheduler(schedule)]
    )


def test_numbers_of_an_optimizer_set_between_epochs_are_live():
    def build():
        return net(optimizer=SGD(0.05, momentum=0.5, nesterov=True, global_clipnorm=1.0))

    plain, fast = pair(build)
    for model in (plain, fast):
        momentum = HyperparameterScheduler("momentum", lambda epoch: 0.5 + 0.1 * epoch)
        seeded_fit(model, *data(), epochs=4, callbacks=[momentum])
    assert_same_weights(plain, fast)
    assert float(fast.optimizer.momentum) == pytest.approx(0.5)  # Given back.
    assert str(fast.acceleration).startswith("7 steps")


def test_dropout_rate_is_live():
    model = accelerate(net(Dropout(0.0, seed=1)), 5)
    rates = []

    class SwitchOn(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.layers[0].rate = 0.0 if epoch < 2 else 1.0

        def on_epoch_end(self, epoch, logs=None):
            rates.append(logs["loss"])

    x, y = data()
    model.fit(x, y, epochs=4, batch_size=150, verbose=0, callbacks=[SwitchOn()])
    # At rate 1 only the bias is seen: the loss is that of no information, about log 3.
    assert rates[2] == pytest.approx(np.log(3), abs=0.05)
    assert abs(rates[1] - rates[2]) > 0.05


@pytest.mark.slow
def test_dropout_trains_alike_in_distribution():
    def build():
        return net(keras.layers.Dense(32, activation="relu"), Dropout(0.3, seed=3))

    plain, fast = pair(build)
    losses = [seeded_fit(model, *data(), epochs=15)["loss"][-1] for model in (plain, fast)]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def frozen_then_trained(model):
    class Unfreeze(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.layers[0].trainable = epoch > 0
            self.model.train_function = None
            self.model.make_train_function(force=True)

    sgd = keras.optimizers.SGD(0.1)
    sgd.build(model.trainable_variables)
    model.compile(sgd, model.loss)
    return Unfreeze()


@only_tensorflow  # On JAX the optimizer has to be rebound too, as FreezeSchedule does.
def test_making_the_train_function_anew_takes_changes_up():
    plain, fast = pair()
    for model in (plain, fast):
        seeded_fit(model, *data(), epochs=3, callbacks=[frozen_then_trained(model)])
    assert_same_weights(plain, fast)


def test_freeze_schedule_freezes_and_unfreezes():
    from kerastools.callbacks import FreezeSchedule, Phase

    def build():
        return net(keras.layers.Dense(8, activation="tanh", name="trunk"))

    def trained(model):
        head = Phase(model.layers[-1].name, epochs=2)
        schedule = FreezeSchedule([head, Phase("all", lr_multiplier=0.1)])
        seeded_fit(model, *data(), epochs=4, callbacks=[schedule])
        return model

    plain = trained(build())
    for steps in (5, "auto"):
        assert_same_weights(plain, trained(accelerate(build(), steps)))


class Watcher(keras.callbacks.Callback):
    """Notes which batches it sees and at which step of the optimizer."""

    needs_every_batch = False

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(("begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(("end", batch))
        assert "loss" in logs


def test_batch_hooks_see_calls_as_with_steps_per_execution():
    x, y = data(16 * 7)
    seen = []
    for model in (net(steps_per_execution=3), accelerate(net(), 3)):
        watcher = Watcher()
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[watcher])
        seen.append(watcher.seen)
        assert vars(watcher).keys().isdisjoint({"on_train_batch_end", "on_train_batch_begin"})
    assert seen[1] == [("begin", 0), ("end", 2), ("begin", 3), ("end", 5), ("begin", 6), ("end", 6)]
    assert (
        seen[0][:5] == seen[1][:5]
    )  # Keras numbers the end of the last call 8, as if it were full.


def test_keras_own_callbacks_may_stay(tmp_path, shared):
    callbacks = [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("loss", patience=2),
    ]
    model = shared[1]
    model.fit(*data(), epochs=2, verbose=0, callbacks=callbacks)
    assert os.path.getsize(tmp_path / "log.csv") > 0
    assert (tmp_path / "w.weights.h5").exists()


def test_what_may_end_training_is_seen(tmp_path):
    class Target(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = logs["loss"] < 1

    def stop(epoch, logs):
        target.model.stop_training = True

    target = Target()
    enders = [target, keras.callbacks.EarlyStopping(), keras.callbacks.LambdaCallback(stop)]
    others = [
        Watcher(),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True),
        keras.callbacks.LambdaCallback(print),
    ]
    assert [may_end_early(c) for c in enders] == [True] * 3
    assert [may_end_early(c) for c in others] == [False] * 4


def test_stopping_between_calls_stops_there(shared):
    class Stop(Watcher):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch >= 6

    model = shared[1]
    model.fit(*data(), batch_size=16, epochs=3, verbose=0, callbacks=[Stop()])
    assert int(model.optimizer.iterations) == 7


def test_an_interrupted_fit_can_go_on(shared):
    class Interrupt(Watcher):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = shared[1]
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data(), batch_size=16, verbose=0, callbacks=[Interrupt()])
    model.fit(*data(), batch_size=16, verbose=0)
    assert int(model.optimizer.iterations) == 17


def test_progress_is_shown(capsys, shared):
    shared[1].fit(*data(), batch_size=16, verbose=1)
    assert "10/10" in capsys.readouterr().out


def test_evaluate_and_single_batches_are_keras_s(shared):
    plain, fast = shared
    x, y = data()
    for model in (plain, fast):
        model.train_on_batch(x, y)
        seeded_fit(model, x, y)
        model.train_on_batch(x, y)
    np.testing.assert_allclose(
        fast.evaluate(x, y, verbose=0), plain.evaluate(x, y, verbose=0), rtol=1e-5
    )
    np.testing.assert_allclose(fast.test_on_batch(x, y), plain.test_on_batch(x, y), rtol=1e-5)
    assert fast.evaluate(x, y, verbose=0, return_dict=True).keys() == {"loss", "accuracy"}


@only_tensorflow
def test_the_step_is_traced_once_where_keras_traces_it_twice_or_more():
    traced = []

    class Counted(keras.layers.Layer):
        def call(self, x, training=False):
            traced.append(training)
            return x

    counts = []
    for steps in (1, 5):
        traced.clear()
        accelerate(net(Counted()), steps).fit(*data(), verbose=0)
        counts.append(sum(map(bool, traced[1:])))  # One call is the model's making.
    assert counts[0] >= 2
    assert counts[1] == 1


@only_tensorflow
def test_custom_train_step():
    class Doubled(keras.Sequential):
        def train_step(self, batch):
            super().train_step(batch)
            return {**super().train_step(batch), "twice": keras.ops.ones(())}

    def build():
        keras.utils.set_random_seed(5)
        model = Doubled([keras.Input((6,)), keras.layers.Dense(3)])
        model.compile("sgd", "mse")
        return model

    x, _ = data()
    history = assert_same_training(*pair(build), x, x[:, :3], epochs=2)
    assert history["twice"] == [1.0, 1.0]


def test_accelerated_model_saves_and_loads_as_any_other(tmp_path):
    model = accelerate(net(), 5)
    model.fit(*data(), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    x, _ = data()
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations)
    assert not hasattr(loaded, "acceleration")


def test_lasts_through_compile_and_can_be_taken_off():
    model = accelerate(net(), 5)
    model.compile("sgd", model.loss)
    model.fit(*data(), verbose=0)
    assert str(model.acceleration).startswith("5 steps")
    assert accelerate(model, steps_per_call=1) is model
    assert not hasattr(model, "acceleration")
    assert "fit" not in vars(model)
    model.fit(*data(), verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps_per_call": 0}, "at least 1. Received 0"),
        ({"steps_per_call": 2.5}, "Received 2.5"),
        ({"steps_per_call": True}, "Received True"),
        ({"xla": "yes"}, "Received 'yes'"),
        ({"last_batch": "pad"}, "Received 'pad'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        accelerate(model, **arguments)
    assert "fit" not in vars(model)


def test_what_is_no_compiled_model_is_refused():
    with pytest.raises(TypeError, match=r"needs a keras\.Model"):
        accelerate("model")
    with pytest.raises(ValueError, match="compiled model"):
        accelerate(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))


@pytest.mark.parametrize("times", [1, 2])
def test_methods_that_the_user_has_replaced_stay_and_are_called(times):
    model, called = net(), []

    def logging(name):
        below = getattr(model, name)

        def logged(*args, **kwargs):
            called.append(name)
            return below(*args, **kwargs)

        setattr(model, name, logged)
        return logged

    own = {name: logging(name) for name in ("train_step", "compute_loss", "compute_metrics")}
    for _ in range(times):
        accelerate(model, 5)
    model.fit(*data(), 15, 1, verbose=0)
    model.evaluate(*data(), verbose=0)
    assert set(called) == set(own)

    class Interrupt(Watcher):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    callback = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data(), verbose=0, callbacks=[callback])
    assert "on_train_batch_end" not in vars(callback)
    accelerate(model, steps_per_call=1)
    assert {name: vars(model)[name] for name in own} == own
    assert "make_train_function" not in vars(model)
