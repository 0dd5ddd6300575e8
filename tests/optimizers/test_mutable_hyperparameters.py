"""Every number of every optimizer can be set while `fit` runs, and is saved with it."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from kerastools.optimizers import SGD, Adam

ROWS, BATCH = 32, 8


def data():
    rng = np.random.default_rng(3)
    return np.float32(rng.normal(size=(ROWS, 2))), np.float32(rng.normal(size=(ROWS, 1)))


def linear(optimizer):
    """y = xw, whose gradient NumPy has, too."""
    x = keras.Input((2,))
    y = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="w")(x)
    model = keras.Model(x, y)
    model.compile(optimizer, "mse")
    return model


class SetAt(keras.callbacks.Callback):
    """Sets numbers of the optimizer before the given batches (counted from 0 over all epochs)."""

    def __init__(self, changes):
        super().__init__()
        self.changes, self.batch = changes, 0

    def on_train_batch_begin(self, batch, logs=None):
        for name, value in self.changes.get(self.batch, {}).items():
            setattr(self.model.optimizer, name, value)
        self.batch += 1


class CountTraces(keras.layers.Layer):
    """Counts how often the training step is traced."""

    traces = 0

    def call(self, x, training=False):
        self.traces += bool(training)
        return x


def fit_and_count_traces(optimizer, changes):
    """Returns the weights and how often the step was traced after the first batch."""
    counter, inner = CountTraces(), linear(optimizer)
    model = keras.Sequential([keras.Input((2,)), counter, inner])
    model.compile(optimizer, "mse")
    after_batch = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: after_batch.append(counter.traces)
    )
    options = {"batch_size": BATCH, "epochs": 3, "shuffle": False, "verbose": 0}
    model.fit(*data(), callbacks=[count, SetAt(changes)], **options)
    assert after_batch[0] > 0
    return inner.get_weights()[0], after_batch[-1] - after_batch[0]


def adam_in_numpy(changes, epochs):
    h = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "learning_rate": 0.1}
    h |= {"weight_decay": 0.01}
    x, y = (a.astype("float64") for a in data())
    w, m, s = np.ones((2, 1)), 0.0, 0.0
    for t in range(epochs * ROWS // BATCH):
        h |= changes.get(t, {})
        rows = slice(t * BATCH % ROWS, t * BATCH % ROWS + BATCH)
        g = 2 * x[rows].T @ (x[rows] @ w - y[rows]) / BATCH
        m = h["beta_1"] * m + (1 - h["beta_1"]) * g
        s = h["beta_2"] * s + (1 - h["beta_2"]) * g**2
        alpha = np.sqrt(1 - h["beta_2"] ** (t + 1)) / (1 - h["beta_1"] ** (t + 1))
        step = alpha * m / (np.sqrt(s) + h["epsilon"]) + h["weight_decay"] * w
        w = w - h["learning_rate"] * step
    return w


def test_numbers_set_in_the_middle_of_fit_act_at_once_without_another_trace():
    changes = {
        5: {"beta_1": 0.8},
        7: {"beta_2": np.float32(0.99), "epsilon": 1e-3},
        9: {"learning_rate": 1, "weight_decay": 0},
    }
    got, traces = fit_and_count_traces(Adam(0.1, weight_decay=0.01), changes)
    assert traces == 0
    want = adam_in_numpy(changes, epochs=3)
    assert np.max(np.abs(got - want)) / np.max(np.abs(want)) < 1e-5
    # Without the changes the weights would be elsewhere: the test can fail.
    assert np.max(np.abs(got - adam_in_numpy({}, epochs=3))) > 0.01


def test_setting_every_number_traces_nothing_again():
    changes = {
        i: {name: value}
        for i, (name, value) in enumerate(
            {
                "learning_rate": 0.2,
                "beta_1": 0.5,
                "beta_2": 0.9,
                "epsilon": 1e-4,
                "weight_decay": 0.1,
                "clipvalue": 0.5,
                "clipnorm": 0.4,
                "global_clipnorm": 0.3,
            }.items()
        )
    }
    optimizer = Adam(
        0.1, weight_decay=0.01, clipvalue=1.0, clipnorm=1.0, global_clipnorm=float("inf")
    )
    _, traces = fit_and_count_traces(optimizer, changes)
    assert traces == 0
    config = optimizer.get_config()
    for change in changes.values():
        assert {name: config[name] for name in change} == change


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Adam(0.1, beta_2=0.9999, amsgrad=True, clipnorm=1.0), id="Adam"),
        pytest.param(lambda: SGD(0.01, momentum=0.9, nesterov=True), id="SGD"),
        pytest.param(lambda: SGD(0.01, momentum=0.9, nesterov="exact"), id="exact"),
    ],
)
@pytest.mark.filterwarnings("ignore:Model .* is saved at the weights that its SGD trains")
def test_saved_and_loaded_in_the_middle_twenty_steps_are_the_same_to_the_bit(make, tmp_path):
    model = linear(make())
    name, value = ("beta_1", 0.8) if isinstance(model.optimizer, Adam) else ("momentum", 0.7)
    options = {"batch_size": BATCH, "epochs": 5, "shuffle": False, "verbose": 0}
    model.fit(*data(), callbacks=[SetAt({3: {name: value}})], **options)
    model.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert float(getattr(loaded.optimizer, name)) == pytest.approx(value, rel=1e-6)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    model.fit(*data(), **options)
    loaded.fit(*data(), **options)
    assert int(loaded.optimizer.iterations) == 40
    for a, b in zip(
        model.get_weights() + model.optimizer.variables,
        loaded.get_weights() + loaded.optimizer.variables,
        strict=True,
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_a_number_that_is_refused_changes_nothing():
    optimizer = Adam(0.1, weight_decay=0.01, clipnorm=1.0)
    before = json.dumps(optimizer.get_config())
    bad = {
        "learning_rate": -1,
        "beta_1": 1.0,
        "beta_2": -0.1,
        "epsilon": float("nan"),
        "weight_decay": "none",
        "clipnorm": 0,
    }
    for name, value in bad.items():
        with pytest.raises(ValueError, match=f"Adam needs {name} to be a number in"):
            setattr(optimizer, name, value)
    assert json.dumps(optimizer.get_config()) == before


def test_a_number_that_was_left_out_cannot_be_set_once_the_optimizer_is_built():
    optimizer = Adam(0.1, weight_decay=0.01)
    optimizer.build([keras.Variable([1.0])])
    with pytest.raises(ValueError, match=r"holds clipnorm=None.*constructor"):
        optimizer.clipnorm = 1.0
    with pytest.raises(ValueError, match=r"holds weight_decay=0.01.*Received weight_decay=None"):
        optimizer.weight_decay = None
    assert optimizer.get_config()["weight_decay"] == 0.01


def test_works_inside_a_loss_scale_optimizer():
    plain = linear(Adam(0.1))
    scaled = linear(keras.optimizers.LossScaleOptimizer(Adam(0.1), initial_scale=2.0**4))
    for model in (plain, scaled):
        model.fit(*data(), batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    # The scale is a power of two: it leaves no trace in the last digits.
    np.testing.assert_allclose(plain.get_weights()[0], scaled.get_weights()[0], rtol=1e-6)


def test_four_small_batches_accumulated_are_one_large_batch():
    large = linear(Adam(0.1))
    small = linear(Adam(0.1, gradient_accumulation_steps=4))
    large.fit(*data(), batch_size=32, epochs=5, shuffle=False, verbose=0)
    small.fit(*data(), batch_size=8, epochs=5, shuffle=False, verbose=0)
    np.testing.assert_allclose(small.get_weights()[0], large.get_weights()[0], rtol=1e-5)
    assert float(ops.convert_to_numpy(small.optimizer._step_slots)[0]) == 5.0


def test_weight_decay_spares_what_is_excluded():
    decayed, spared = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer = SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[spared])
    nothing = ops.convert_to_tensor([0.0])
    optimizer.apply([nothing, nothing], [decayed, spared])
    assert float(decayed[0]) == pytest.approx(0.95)
    assert float(spared[0]) == 1.0


@pytest.mark.tensorflow
@pytest.mark.parametrize("fuses", [True, False])
def test_sparse_gradients_of_embeddings_act_as_the_dense_ones_that_they_stand_for(fuses):
    import tensorflow as tf

    values, rows = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), [0, 2, 0]
    sparse = tf.IndexedSlices(values, rows, [4, 2])
    # Row 0 occurs twice: its square is that of the sum, which Keras's Adam does not know.
    dense = tf.constant([[6.0, 8.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    tables = []
    for gradient in (sparse, dense):
        table = keras.Variable(np.ones((4, 2), "float32"))
        optimizer = Adam(0.1, global_clipnorm=1.0)
        optimizer._fuses = fuses
        for _ in range(3):
            optimizer.apply([gradient], [table])
        tables.append(ops.convert_to_numpy(table))
    np.testing.assert_array_equal(*tables)
    np.testing.assert_array_equal(tables[0][[1, 3]], 1.0)


@keras.saving.register_keras_serializable("kerastools_tests")
def rising(step):
    """0.5, 0.6, 0.7, 0.8 and so on."""
    return ops.minimum(0.5 + 0.1 * ops.cast(step, "float32"), 0.8)


def test_every_number_may_be_a_function_of_the_step():
    changes = {
        t: {"beta_1": min(0.5 + 0.1 * t, 0.8), "learning_rate": 0.1 / (1 + t)} for t in range(12)
    }
    changes[0]["weight_decay"] = changes[1]["weight_decay"] = 0.5
    changes[2]["weight_decay"] = 0.01
    schedules = keras.optimizers.schedules
    optimizer = Adam(
        lambda step: 0.1 / (1 + ops.cast(step, "float32")),
        beta_1=rising,
        weight_decay=schedules.PiecewiseConstantDecay([1], [0.5, 0.01]),
    )
    model = linear(optimizer)
    model.fit(*data(), batch_size=BATCH, epochs=3, shuffle=False, verbose=0)
    want = adam_in_numpy(changes, epochs=3)
    assert np.max(np.abs(model.get_weights()[0] - want)) / np.max(np.abs(want)) < 1e-5
    assert float(optimizer.learning_rate) == pytest.approx(0.1 / 13)
    assert float(optimizer.beta_1) == pytest.approx(0.8)


def test_functions_of_the_step_are_saved(tmp_path):
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model = linear(SGD(decay, momentum=rising, clipnorm=1.0))
    options = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(*data(), **options)
    model.save(tmp_path / "scheduled.keras")
    loaded = keras.models.load_model(tmp_path / "scheduled.keras")
    for each in (model, loaded):
        each.fit(*data(), **options)
    np.testing.assert_array_equal(model.get_weights()[0], loaded.get_weights()[0])
    assert loaded.optimizer.get_config() == model.optimizer.get_config()


def test_schedules_move_once_per_real_update():
    large = linear(Adam(lambda step: 0.1 * 0.5 ** ops.cast(step, "float32"), beta_1=rising))
    small = linear(
        Adam(
            lambda step: 0.1 * 0.5 ** ops.cast(step, "float32"),
            beta_1=rising,
            gradient_accumulation_steps=4,
        )
    )
    large.fit(*data(), batch_size=32, epochs=5, shuffle=False, verbose=0)
    small.fit(*data(), batch_size=8, epochs=5, shuffle=False, verbose=0)
    np.testing.assert_allclose(small.get_weights()[0], large.get_weights()[0], rtol=1e-5)


def test_a_function_that_leaves_the_interval_is_refused():
    with pytest.raises(ValueError, match=r"momentum.*which is 2 at step 0"):
        SGD(momentum=lambda step: 2.0)
    with pytest.raises(ValueError, match=r"learning_rate to be a number"):
        SGD(None)


def test_a_function_cannot_become_a_number_nor_a_number_a_function():
    scheduled, fixed = SGD(momentum=rising), SGD(momentum=0.5)
    with pytest.raises(ValueError, match="constructor"):
        scheduled.momentum = 0.9
    with pytest.raises(ValueError, match="constructor"):
        fixed.momentum = rising
    assert float(scheduled.momentum) == float(fixed.momentum) == 0.5
