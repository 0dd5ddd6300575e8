"""What Keras trains, `accelerate` trains too, to the same numbers, whatever has state or hooks."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

from kerastools import KerastoolsNotice
from kerastools.acceleration import accelerate

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
Y = X[:, :1] * 2 + 1
HELD_OUT = (X[:24], Y[:24])


def net(*layers, model=keras.Sequential, shape=(4,), compiling=None):
    keras.utils.set_random_seed(3)
    net = model([keras.Input(shape), *layers, keras.layers.Dense(1, name="head")])
    net.compile(**{"optimizer": keras.optimizers.SGD(0.02), "loss": "mse"} | (compiling or {}))
    return net


def fit(model, x=X, y=Y, **arguments):
    settings = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0} | arguments
    return model.fit(x=x, y=y, **settings).history


def state(model):
    variables = [*model.weights, *(model.optimizer.variables if model.optimizer else [])]
    return [ops.convert_to_numpy(v) for v in variables]


class Counter(keras.layers.Layer):
    """Counts its calls, and draws from a generator at each of them, training or not."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        self.calls.assign(self.calls + 1)
        return x + 0.01 * keras.random.normal(ops.shape(x)[1:], seed=self.seeds)


class CountingLoss(keras.losses.Loss):
    def __init__(self):
        super().__init__()
        self.calls = keras.Variable(0.0, trainable=False)

    def call(self, y_true, y_pred):
        if BACKEND == "tensorflow":  # On JAX nothing keeps the variables of a loss.
            self.calls.assign(self.calls + 1)
        return ops.mean(ops.square(y_true - y_pred), -1)


class CountingMetric(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name="calls")
        self.calls = self.add_variable((), "zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.calls.assign(self.calls + 1)

    def result(self):
        return self.calls + 0.0

    def reset_state(self):  # Never: it counts all calls.
        pass


def counters(acc):
    """Nothing of the user's runs before the first step."""
    loss = CountingLoss()
    model = acc(net(Counter(), compiling={"loss": loss, "metrics": [CountingMetric()]}))
    history = fit(model, validation_data=HELD_OUT)
    assert history["calls"] == [12, 30]
    return [*state(model), float(loss.calls), *history["loss"]]


class Reset(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.layers[0].reset_state()
        self.model.reset_metrics()


def recurrent(acc, cell=keras.layers.LSTM):
    x = np.random.default_rng(0).normal(size=(16, 5, 3)).astype("float32")
    keras.utils.set_random_seed(3)
    layers = [keras.Input(batch_shape=(4, 5, 3)), cell(4, stateful=True), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.02), "mse")
    model = acc(model)
    fit(model, x, x.sum((1, 2))[:, None])
    fit(model, x, x.sum((1, 2))[:, None], callbacks=[Reset()])
    return state(model)


def stateful_gru(acc):
    return recurrent(acc, keras.layers.GRU)


class OldLoss(keras.Model):
    """A model that is not built before `fit`, and the signature of `compute_loss` of Keras 2."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return super().compute_loss(x, y, y_pred, sample_weight)


def old_compute_loss(acc):
    keras.utils.set_random_seed(3)
    model = OldLoss()
    model.compile(keras.optimizers.SGD(0.02), "mse")
    fit(acc(model))
    return state(model)


def no_optimizer(acc):
    model = acc(net(compiling={"optimizer": None}))
    return [model.evaluate(X, Y, batch_size=4, verbose=0)]


def graphs(acc):
    """Inputs of different first axes: nodes and edges of one graph a step."""
    if BACKEND != "tensorflow":
        pytest.skip("a tf.data.Dataset of single examples")
    import tensorflow as tf

    class Graph(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = keras.layers.Dense(1), keras.layers.BatchNormalization()

        def call(self, inputs, training=False):
            nodes, edges = inputs
            received = tf.math.unsorted_segment_sum(tf.gather(nodes, edges[:, 0]), edges[:, 1], 5)
            return self.dense(self.norm(nodes + received, training=training))

    rng = np.random.default_rng(0)
    nodes, edges = rng.normal(size=(6, 5, 4)).astype("float32"), rng.integers(0, 5, (6, 7, 2))
    sets = tf.data.Dataset.from_tensor_slices(((nodes, edges), nodes.sum(-1, keepdims=True)))
    keras.utils.set_random_seed(3)
    model = Graph()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    fit(acc(model), sets, None, batch_size=None)
    return state(model)


class Saver(keras.callbacks.ModelCheckpoint):
    """Notes at which step it saves, in place of a file."""

    def __init__(self):
        super().__init__("x.weights.h5", save_weights_only=True, save_freq=5)
        self.saved = []

    def _save_model(self, epoch, batch, logs):
        self.saved.append(batch)
        assert "loss" in logs


class Backup(keras.callbacks.BackupAndRestore):
    def __init__(self, directory="."):
        super().__init__(directory, save_freq=5, delete_checkpoint=False)
        self.saved = []

    def _save_model(self):
        self.saved.append(self._last_batch_seen)


def integer_save_freq(acc):
    model, savers = acc(net()), [Saver(), Backup()]
    fit(model, X[:20], Y[:20], epochs=3, callbacks=savers)
    fit(model, epochs=3, callbacks=savers)
    assert savers[0].saved == savers[1].saved or not hasattr(model, "acceleration")
    return [np.array(saver.saved) for saver in savers]


class Blocks(keras.utils.PyDataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        return X[4 * i : 4 * i + 4], (Y[4 * i : 4 * i + 4] > 1).astype("int32")


def class_weights_and_workers(acc):
    model = acc(net())
    # On JAX Keras's `fit` takes a batch before it begins, and of two workers it loses that one or
    # the next.
    blocks = Blocks(workers=2 if BACKEND == "tensorflow" else 1)
    fit(model, blocks, None, batch_size=None, class_weight={0: 0.5, 1: 2.0})
    return state(model)


def train_and_test_function_of_another_fit(acc):
    """Plain and accelerated calls of the same model take turns."""
    model = acc(net(Counter()))
    model.train_on_batch(X[:4], Y[:4])
    fit(model, epochs=1)
    model.evaluate(X, Y, verbose=0)
    model.train_on_batch(X[:4], Y[:4])
    return [*state(model), model.test_on_batch(X, Y)]


SAME = [
    counters,
    recurrent,
    stateful_gru,
    old_compute_loss,
    no_optimizer,
    graphs,
    integer_save_freq,
    class_weights_and_workers,
    train_and_test_function_of_another_fit,
]


@pytest.mark.parametrize("trained", SAME, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_trains_to_the_numbers_of_keras(trained):
    assert_equal(trained(lambda model: accelerate(model)), trained(lambda model: model))


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class EachBatch(keras.callbacks.Callback):
    """Notes what it is called with, and stops the second epoch after its third batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((batch, logs["loss"]))
        self.model.stop_training = len(self.seen) == 15


class EachTestBatch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_test_batch_end(self, batch, logs=None):
        self.seen.append((batch, logs["loss"]))


@pytest.mark.parametrize("steps", ["auto", 3])
@pytest.mark.parametrize("kind", [EachBatch, EachTestBatch])
def test_callback_with_hooks_for_each_batch_gets_each_batch(kind, steps):
    results = []
    for model in (net(), accelerate(net(), steps)):
        callback = kind()
        held_out = None if kind is EachBatch else HELD_OUT
        says = contextlib.nullcontext()
        if results:
            says = pytest.warns(KerastoolsNotice, match=f"{kind.__name__} has hooks for each")
        with says:
            fit(model, callbacks=[callback], validation_data=held_out)
        if held_out:
            model.evaluate(*held_out, batch_size=4, verbose=0, callbacks=[callback])
        results.append([*state(model), np.array(callback.seen)])
    assert_equal(*results)
    needy = "train" if kind is EachBatch else "test"
    assert model.acceleration.each_batch[needy] == kind.__name__


class OwnFit(keras.Sequential):
    def fit(self, data=None, x=None, y=None, **arguments):
        assert data is None
        return super().fit(x[:48], y, **arguments)


class OwnEvaluate(keras.Sequential):
    def evaluate(self, x, *args, **arguments):
        return super().evaluate(x[:24], *args, **arguments)


class OwnTrainFunction(keras.Sequential):
    def make_train_function(self, force=False):
        super().make_train_function(force=force)


def sparse():
    import tensorflow as tf

    return {"x": tf.sparse.from_dense(X)}


def hooks():
    return {"callbacks": keras.callbacks.CallbackList([], add_history=True)}


PLAIN = [
    ({"model": OwnFit}, dict, "OwnFit has its own fit"),
    ({"model": OwnEvaluate}, lambda: {"validation_data": HELD_OUT}, "its own evaluate"),
    ({"model": OwnTrainFunction}, dict, "its own make_train_function"),
    ({"compiling": {"run_eagerly": True}}, dict, "run_eagerly=True"),
    ({"compiling": {"steps_per_execution": 3}}, dict, "steps_per_execution=3"),
    ({}, hooks, "CallbackList"),
]
PLAIN += (
    [({}, sparse, "sparse or ragged")]
    if BACKEND == "tensorflow"
    else [({"compiling": {"jit_compile": False}}, dict, "jit_compile=False")]
)


@pytest.fixture(scope="module")
def plain_training():
    model = net()
    fit(model)
    return state(model)


@pytest.mark.parametrize(("building", "arguments", "message"), PLAIN, ids=[p[2] for p in PLAIN])
def test_runs_as_plain_keras_and_says_why(building, arguments, message, plain_training):
    model = net(**building)
    given = {"x": X, "y": Y} | arguments()
    if "callbacks" in given:
        given["callbacks"].set_model(model)
    with pytest.warns(KerastoolsNotice, match=message):
        fit(accelerate(model, 3), **given)
    assert_equal(state(model), plain_training)


@pytest.mark.tensorflow
def test_a_strategy_of_one_device_is_left_to_keras():
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = net()
    with pytest.warns(KerastoolsNotice, match=r"tf\.distribute"):
        accelerate(model)
    model.make_train_function()
    assert "keras" in model.train_function.__module__


def test_an_exception_in_a_callback_leaves_the_model_as_it_was():
    class Fails(keras.callbacks.Callback):
        needs_every_batch = False

        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("mine")

    plain, fast, fails = net(), accelerate(net(), 3), Fails()
    before = dict(vars(fast))
    with pytest.raises(RuntimeError, match="mine"):
        fit(fast, callbacks=[fails])
    assert set(vars(fails)).isdisjoint({"on_train_batch_end"})
    assert {k: v for k, v in vars(fast).items() if callable(v)}.keys() <= before.keys() | {
        "train_function"
    }
    fit(plain, X[:12], Y[:12], epochs=1)  # What the failing call ran.
    fit(plain)
    fit(fast)
    assert_equal(state(fast), state(plain))


@pytest.fixture(scope="module")
def twelve_epochs():
    model = net()
    return [fit(model) and state(model) for _ in range(6)]


@pytest.mark.tensorflow  # On JAX everything is compiled by XLA.
@pytest.mark.parametrize("epochs", [2, 12])
@pytest.mark.parametrize("steps", ["auto", 5])
@pytest.mark.parametrize(("jit", "xla"), [(True, "auto"), ("auto", True)])
def test_xla_trains_to_the_same_weights(jit, xla, steps, epochs, twelve_epochs):
    model = accelerate(net(compiling={"jit_compile": jit}), steps, xla=xla)
    fit(model, epochs=epochs)
    assert_equal(state(model), twelve_epochs[epochs // 2 - 1])
    assert "XLA" in str(model.acceleration)
