"""Faults of whole training programs: what is found, what is left alone, what a repair keeps."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.diagnosis import diagnose

RNG = np.random.default_rng(0)
X = RNG.normal(size=(320, 8)).astype("float32")
THREE = np.digitize(X[:, 0], [-0.5, 0.5])
MANY_HOT = (X[:, :3] > 0).astype("float32")
BINARY = (X[:, 0] > 0).astype("float32")
SPARSE = "sparse_categorical_crossentropy"
pytestmark = pytest.mark.tensorflow  # What the rules read is tested on both in test_diagnose.py.


def net(*top, kernel="he_normal", **arguments):
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(
        16, activation="relu", kernel_initializer=kernel, name="hidden", **arguments
    )
    return keras.Sequential([keras.Input((8,)), hidden, *top])


def out(units, activation=None, **arguments):
    return layers.Dense(units, activation=activation, name="out", **arguments)


def told(model, y=None, loss=None, x=X, **arguments):
    return [f.rule for f in diagnose(model, x, y, loss, **arguments).findings]


SMALL = keras.initializers.RandomNormal(stddev=0.01, seed=1)
SOFT = layers.Activation
OUTPUTS = {
    "softmax twice": ((out(3, "softmax"), SOFT("softmax")), THREE, SPARSE),
    "relu, softmax": ((out(3, "relu"), SOFT("softmax")), THREE, SPARSE),
    "softmax, many hot, mse": ((out(3, "softmax"),), MANY_HOT, "mse"),
    "softmax, many hot": ((out(3, "softmax"),), MANY_HOT, "binary_crossentropy"),
    "one-hot, mse": ((out(3),), np.eye(3)[THREE], "mse"),
    "relu by chance": (
        (out(1, "relu", kernel_initializer=SMALL),),
        BINARY,
        "binary_crossentropy",
    ),
    "one unit, many classes": ((out(1, "sigmoid"),), THREE, "binary_crossentropy"),
    "sigmoid, classes": ((out(3, "sigmoid"),), THREE, SPARSE),
    "softmax of one unit": ((out(1, "softmax"),), BINARY[:, None], "mae"),
    "tanh logits": (
        (out(3, "tanh"),),
        THREE,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ),
}


@pytest.mark.filterwarnings("ignore:(?s).*softmax over axis.*")
@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_does_not_mean_what_its_loss_takes_is_found(name):
    top, y, loss = OUTPUTS[name]
    assert "output activation" in told(net(*top), y, loss)


def test_sound_outputs_raise_no_alarm():
    one_hot = np.eye(3)[THREE].astype("float32")
    for top, y, loss in [
        ((out(3, "softmax"),), THREE, SPARSE),
        ((out(3, "softmax"),), one_hot, "binary_crossentropy"),
        ((out(3, "sigmoid"),), MANY_HOT, "binary_crossentropy"),
        ((out(1, "sigmoid"),), BINARY, "mse"),
        ((out(3), layers.Softmax()), THREE, SPARSE),
    ]:
        assert told(net(*top), y, loss) == []


@pytest.mark.filterwarnings("ignore:(?s).*softmax over axis.*")
def test_a_gradient_that_is_cut_off_is_found_with_the_layer_that_cuts_it():
    frozen = net(out(1))
    frozen.trainable = False
    inputs = keras.Input((8,))
    stopped = ops.stop_gradient(layers.Dense(1)(layers.Dense(4, "relu")(inputs)))
    cut = keras.Model(inputs, stopped)
    for model, culprit in ((frozen, None), (net(out(1, "softmax")), "out"), (cut, None)):
        findings = diagnose(model, X, BINARY, "mse").findings
        (finding,) = (f for f in findings if f.rule == "no gradient")
        assert culprit in (None, finding.layer)


def test_a_learning_rate_that_is_not_positive_or_absurd_is_found():
    for rate in (-1e3, 0.0):
        rules = told(net(out(3)), THREE, LOGITS, optimizer=keras.optimizers.Adam(rate))
        assert rules == ["learning rate not positive"]
    rules = told(net(out(3)), THREE, LOGITS, optimizer=keras.optimizers.SGD(1e6))
    assert rules == ["learning rate too large"]


LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_a_learning_rate_a_hundred_times_too_small_is_found_and_fixed():
    model = net(out(3, "softmax"))
    model.compile(keras.optimizers.SGD(1e-5), SPARSE)
    diagnosis = diagnose(model, X, THREE)
    assert [f.rule for f in diagnosis.findings] == ["update too small"]
    repair = diagnosis.repair(seed=1)
    assert repair.verified
    assert float(repair.optimizer.learning_rate) > 1e-3


def test_inputs_are_looked_at_in_more_rows_than_a_batch_has():
    x = np.arange(200.0)[:, None]
    model = keras.Sequential([keras.Input((1,)), layers.Dense(4, "relu"), layers.Dense(1)])
    assert "inputs not normalised" in told(model, 2 * x, "mse", x, batch_size=1)


def test_layers_in_a_row_without_an_activation_are_found_and_bottlenecks_are_not():
    def stack(width):
        hidden = [layers.Dense(n, name=f"d{i}") for i, n in enumerate((16, width, 16))]
        return keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(1)])

    assert "linear layers in a row" in told(stack(16), BINARY, "mse")
    bottleneck = [layers.Dense(16, "relu"), layers.Dense(2), layers.Dense(16, "relu")]
    assert told(net(*bottleneck, out(1)), BINARY, "mse") == []


def test_a_regularizer_that_outweighs_the_loss_is_found_and_weakened():
    def penalized(strength):
        top = out(3, "softmax", kernel_regularizer=keras.regularizers.L2(strength))
        model = net(top, kernel_regularizer=keras.regularizers.L2(strength))
        model.compile(keras.optimizers.Adam(0.01), SPARSE)
        return diagnose(model, X, THREE)

    assert penalized(1e-3).findings == ()
    diagnosis = penalized(1.0)
    assert [f.rule for f in diagnosis.findings] == ["regularizer too strong"]
    repair = diagnosis.repair(seed=1)
    assert repair.verified
    assert repair.model.get_layer("out").kernel_regularizer.l2 < 0.01


def test_categories_may_have_several_labels():
    rows = RNG.integers(0, 3, (320, 3)).astype("float32")
    assert told(keras.Sequential([keras.Input((3,)), layers.Dense(4, "relu"), out(3, "softmax")]),
                THREE, SPARSE, rows) == []  # fmt: skip


def test_a_long_recurrence_without_bounds_is_found():
    def lstm(activation):
        stack = [layers.LSTM(2, activation=activation), layers.Dense(1)]
        return keras.Sequential([keras.Input((60, 1)), *stack])

    x = RNG.normal(size=(8, 60, 1)).astype("float32")
    assert told(lstm("relu"), x[:, 0], "mse", x) == ["unbounded recurrence"]
    assert told(lstm("tanh"), x[:, 0], "mse", x) == []


class Tokens(layers.Layer):
    """Embeds tokens, and their positions if asked to."""

    def __init__(self, with_positions, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(20, 8)
        self.positions = layers.Embedding(6, 8) if with_positions else None

    def build(self, shape):
        self.tokens.build((None,))
        if self.positions is not None:
            self.positions.build((None,))

    def call(self, x):
        embedded = self.tokens(x)
        if self.positions is not None:
            embedded = embedded + self.positions(ops.arange(6))
        return embedded


def transformer(with_positions):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = Tokens(with_positions)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2, "softmax")(x))


def test_tokens_need_positions_and_are_never_normalized():
    x, y = RNG.integers(1, 20, (64, 6)), RNG.integers(0, 2, 64)
    assert told(transformer(False), y, SPARSE, x) == ["no positions"]
    assert told(transformer(True), y, SPARSE, x) == []


def test_attention_to_one_position_is_found():
    model = transformer(True)
    for v in model.get_layer("attention").weights:
        if "query" in v.path or "key" in v.path:
            v.assign(ops.ones_like(v) * (1e4 * (1 + np.arange(v.shape[0]).reshape(-1, 1, 1)))
                     if len(v.shape) == 3 else v)  # fmt: skip
    x, y = RNG.integers(1, 20, (64, 6)), RNG.integers(0, 2, 64)
    assert "attention weights" in told(model, y, SPARSE, x)


# What is judged -----------------------------------------------------------------------------------


class Penalty(layers.Layer):
    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return x


def test_the_loss_is_that_which_fit_minimizes():
    inputs = keras.Input((8,))
    x = layers.Dense(4, kernel_regularizer="l2")(inputs)
    x = Penalty()(x)
    heads = [layers.Dense(1, name="a")(x), layers.Dense(3, "softmax", name="b")(x)]
    model = keras.Model(inputs, heads)
    model.compile("sgd", ["mse", SPARSE], loss_weights=[0.1, 2.0])
    y = [BINARY, THREE]
    weight = RNG.random(320).astype("float32")
    want = model.evaluate(X, y, sample_weight=weight, batch_size=320, verbose=0)
    got = diagnose(model, X, y, batch_size=320, sample_weight=weight).loss
    assert got == pytest.approx(want if np.isscalar(want) else want[0], rel=1e-4)


def test_what_trains_can_be_diagnosed():
    import tensorflow as tf

    inputs = keras.Input((8,))
    alone = keras.Model(inputs, Penalty()(layers.Dense(4)(inputs)))
    alone.compile("sgd")
    assert diagnose(alone, X).loss > 0
    ignoring = net(out(3, "softmax"))
    ignoring.compile("sgd", keras.losses.SparseCategoricalCrossentropy(ignore_class=-1))
    assert diagnose(ignoring, X, np.where(BINARY > 0, THREE, -1)).loss > 0
    t = layers.Dense(4)(inputs)
    partly = keras.Model(inputs, [layers.Dense(1)(t), t])
    partly.compile("sgd", ["mse", None])
    assert diagnose(partly, X, BINARY).loss > 0
    model = net(out(1))
    model.compile("sgd", "mse")
    dataset = tf.data.Dataset.from_tensor_slices((X, BINARY)).batch(16)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return X[16 * i : 16 * i + 16], BINARY[16 * i : 16 * i + 16]

    for data in (dataset, Batches()):
        diagnosis = diagnose(model, data)
        assert diagnosis.subject.batch_size == 16


# What a repair keeps ------------------------------------------------------------------------------


def test_a_repair_without_a_change_says_so():
    repair = diagnose(net(out(3, "softmax")), X, THREE, SPARSE).repair(seed=1)
    assert not repair.verified
    assert not repair.changes
    assert "nothing was changed" in str(repair)


def test_huge_targets_keep_their_unit_and_train_as_standardized_ones():
    y = (3e5 + 1e5 * X[:, 0]).astype("float32")
    model = net(out(1))
    model.compile(keras.optimizers.SGD(0.05), "mse")
    repair = diagnose(model, X, y).repair(seed=1)
    assert repair.verified
    repair.model.fit(X, repair.y, epochs=10, verbose=0)
    error = np.mean((repair.model.predict(X, verbose=0)[:, 0] - y) ** 2) / y.var()
    assert error < 0.2


def test_only_the_guilty_layer_is_drawn_again_and_a_prior_is_kept():
    prior = keras.initializers.Constant(-4.6)
    wild = keras.initializers.RandomNormal(stddev=3.0, seed=1)
    model = net(
        layers.Dense(16, "tanh", kernel_initializer=wild, name="wild"),
        out(1, "sigmoid", bias_initializer=prior),
    )
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    repair = diagnose(model, X, BINARY).repair(seed=1)
    same = {
        name: np.array_equal(*(m.get_layer(name).get_weights()[0] for m in (model, repair.model)))
        for name in ("hidden", "wild", "out")
    }
    changed = any(c.rule == "wrong initialisation" for c in repair.changes)
    assert same == {"hidden": True, "wild": not changed, "out": True}
    assert changed or repair.undone
    assert repair.model.get_layer("out").bias.numpy()[0] == pytest.approx(-4.6)
