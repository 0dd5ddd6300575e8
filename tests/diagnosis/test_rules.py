"""Each rule finds its fault, says nothing of the sound twin, and what can be mended is mended."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from kerastools.diagnosis import diagnose
from kerastools.diagnosis._probe.trial_steps import Steps
from kerastools.diagnosis._remedies import hidden_sigmoids
from kerastools.diagnosis._rules.learning_rate import learning_rate

LOSS = "sparse_categorical_crossentropy"
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(416, 32)).astype("float32")
Y = (X @ RNG.normal(size=(32, 5))).argmax(axis=1)


def net(activation="relu", kernel="he_normal", output="softmax", middle=(), end=(), **arguments):
    keras.utils.set_random_seed(1)
    hidden = [
        layers.Dense(
            32, activation=activation, kernel_initializer=kernel, name=f"d{i}", **arguments
        )
        for i in range(4)
    ]
    last = layers.Dense(5, activation=output, name="output")
    return keras.Sequential([keras.Input((32,)), *hidden, *middle, last, *end])


def adam(rate=1e-3):
    return keras.optimizers.Adam(rate)


def norms(axis):
    return {"kernel_constraint": keras.constraints.MaxNorm(2, axis=axis)}


# Fault: (model, x, y, loss, optimizer, batch size, the rules that must be told, can be mended).
FAULTS = {
    "raw inputs": (net, 100 * X + 300, Y, LOSS, None, 32, "inputs not normalised"),
    "tiny inputs": (net, 1e-4 * X, Y, LOSS, None, 32, "inputs not normalised"),
    "no softmax": (lambda: net(output=None), X, Y, LOSS, None, 32, "output activation"),
    "two softmaxes": (net, X, Y, LOGITS, None, 32, "output activation"),
    "rate": (net, X, Y, LOSS, adam(1.0), 32, "learning rate too large"),
    "sgd rate": (net, X, Y, LOSS, keras.optimizers.SGD(10.0), 32, "learning rate too large"),
    "tiny rate": (net, X, Y, LOSS, adam(1e-8), 32, "update too small"),
    "equal units": (
        lambda: net(kernel=keras.initializers.Constant(0.05)),
        X,
        Y,
        LOSS,
        None,
        32,
        "identical weights",
    ),
    "one seed": (
        lambda: net(kernel=keras.initializers.HeNormal(seed=3)),
        X,
        Y,
        LOSS,
        None,
        32,
        "identical weights",
    ),
    "large weights": (
        lambda: net(kernel=keras.initializers.RandomNormal(stddev=1.5)),
        X,
        Y,
        LOSS,
        None,
        32,
        "wrong initialisation",
    ),
    "dropout": (lambda: net(middle=[layers.Dropout(0.95)]), X, Y, LOSS, None, 32, "dropout rate"),
    "late dropout": (
        lambda: net(end=[layers.Dropout(0.4)]),
        X,
        Y,
        LOSS,
        None,
        32,
        "dropout on the output",
    ),
    "axis": (lambda: net(**norms(1)), X, Y, LOSS, None, 32, "constraint on the wrong axis"),
    "batch of 2": (
        lambda: net(middle=[layers.BatchNormalization()]),
        X,
        Y,
        LOSS,
        None,
        2,
        "batch normalisation with a tiny batch",
    ),
}


# A small net learns with them, so that the mended one may be no better after a short training.
HARMLESS = ("equal units", "one seed", "axis", "batch of 2")


@pytest.mark.tensorflow  # What the rules see on other backends is in test_diagnose.py.
@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_found_and_mended(name):
    make, x, y, loss, optimizer, batch_size, rule = FAULTS[name]
    model = make()
    before = [w.copy() for w in model.get_weights()]
    diagnosis = diagnose(model, x, y, loss, batch_size, optimizer)
    assert rule in {f.rule for f in diagnosis.findings}
    repair = diagnosis.repair(seed=1)
    assert rule in {change.rule for change in (*repair.changes, *repair.undone)}
    if name not in HARMLESS:
        assert repair.verified, str(repair)
        assert rule in {change.rule for change in repair.changes}
    assert (repair.optimizer is None) == (optimizer is None)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow  # What the rules see on other backends is in test_diagnose.py.
@pytest.mark.parametrize("optimizer", [adam(), keras.optimizers.SGD(0.05, momentum=0.9)])
@pytest.mark.parametrize(
    "extra",
    [{}, norms(0), {"middle": [layers.Dropout(0.5)]}],
    ids=["plain", "constrained", "dropout"],
)
def test_the_sound_twin_raises_no_alarm(optimizer, extra):
    assert diagnose(net(**extra), X, Y, LOSS, optimizer=optimizer).findings == ()


def regression(output=None):
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(32, activation="relu")
    return keras.Sequential([keras.Input((32,)), hidden, layers.Dense(1, output, name="output")])


# What is wrong with the data: (model, x, y, loss, words of the evidence, can be mended).
DATA = {
    "one class": (net, X, 0 * Y, LOSS, "the same", False),
    "absent class": (net, X, np.minimum(Y, 3), LOSS, "never appear", False),
    "contradictions": (net, np.tile(X[:104], (4, 1)), Y, LOSS, "another label", False),
    "minus one": (
        lambda: regression("sigmoid"),
        X,
        np.sign(X[:, 0]),
        "binary_crossentropy",
        "from -1 to 1",
        True,
    ),
    "two hot": (
        net,
        X,
        np.eye(5)[Y] + np.eye(5)[0],
        "categorical_crossentropy",
        "sum to 2",
        False,
    ),
    "prices": (regression, X, 2e4 + 3e3 * X[:, 0], "mse", "root mean square", True),
}


@pytest.mark.tensorflow  # Labels are read in NumPy.
@pytest.mark.parametrize("name", DATA)
def test_what_is_wrong_with_labels_is_told(name):
    make, x, y, loss, words, can_be_mended = DATA[name]
    diagnosis = diagnose(make(), x, y, loss)
    finding = next(f for f in diagnosis.findings if f.rule == "labels")
    assert words in finding.evidence
    if can_be_mended:
        assert diagnosis.repair(seed=1).verified


def test_constant_features_are_told_and_a_few_are_usual():
    x = X.copy()
    x[:, :20] = 1.0
    (finding,) = diagnose(net(), x, Y, LOSS).findings
    assert (finding.rule, finding.value) == ("constant features", 20 / 32)
    x = X.copy()
    x[:, :5] = 0.0
    assert diagnose(net(), x, Y, LOSS).findings == ()


@pytest.mark.filterwarnings("ignore:(?s).*softmax over axis.*")
def test_outputs_are_judged_by_what_their_loss_takes():
    def told(output, y, loss):
        findings = diagnose(regression(output), X, y, loss).findings
        return [f.remedy for f in findings if f.rule == "output activation"]

    values, binary = X[:, 0], (X[:, 0] > 0).astype("float32")
    logits = keras.losses.BinaryCrossentropy(from_logits=True)
    assert told(None, values, "mse") == []
    assert told("sigmoid", values, "mse") == ["linear"]
    assert told("relu", values, "mae") == ["linear"]
    assert told("relu", abs(values), "mse") == []
    assert told("sigmoid", binary, "binary_crossentropy") == []
    assert told(None, binary, "binary_crossentropy") == ["sigmoid"]
    assert told("softmax", binary, "binary_crossentropy") == ["sigmoid"]
    assert told(None, binary, logits) == []
    assert told("sigmoid", binary, logits) == ["linear"]
    assert told(None, abs(values), "poisson") == ["softplus"]


@pytest.mark.tensorflow  # JAX compiles for long; the rule runs on both.
def test_small_batches_of_large_images_can_be_normalised():
    def rules(batch_size):
        norm = layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                *(layers.Conv2D(2, 3, activation="relu"), norm, layers.Flatten()),
                layers.Dense(5, activation="softmax"),
            ]
        )
        x = RNG.normal(size=(40, 8, 8, 1)).astype("float32")
        return [f.rule for f in diagnose(model, x, np.arange(40) % 5, LOSS, batch_size).findings]

    assert rules(2) == []
    assert rules(1) == ["batch normalisation with a tiny batch"]


def test_units_that_begin_at_zero_but_part_are_not_identical():
    inputs = keras.Input((32,))
    x = layers.Dense(32, activation="relu")(inputs)
    branch = layers.Dense(32, kernel_initializer="zeros")(layers.Dense(32, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(layers.Add()([x, branch])))
    assert diagnose(model, X, Y, LOSS).findings == ()


def test_inputs_that_a_nested_model_reads_are_normalised_in_front_of_it():
    keras.utils.set_random_seed(1)
    inner = keras.Sequential(
        [keras.Input((32,)), layers.Dense(16, activation="relu", kernel_initializer="he_normal")],
        name="inner",
    )
    end = layers.Dense(5, activation="softmax", name="output")
    diagnosis = diagnose(keras.Sequential([keras.Input((32,)), inner, end]), 100 * X, Y, LOSS)
    repair = diagnosis.repair(seed=1)
    assert [change.rule for change in repair.changes] == ["inputs not normalised"]
    assert repair.verified, str(repair)
    (dense,) = (a for a in repair.model.get_layer("inner").layers if a.weights)
    np.testing.assert_array_equal(dense.get_weights()[0], inner.get_weights()[0])


def test_a_warm_up_is_no_tiny_learning_rate():
    warm_up = keras.optimizers.schedules.CosineDecay(
        1e-9, 1000, warmup_target=1e-3, warmup_steps=100
    )
    assert diagnose(net(), X, Y, LOSS, optimizer=keras.optimizers.Adam(warm_up)).findings == ()


def test_a_compiled_model_is_judged_and_mended_with_its_optimizer_loss_and_metrics():
    model = net()
    model.compile(keras.optimizers.Adam(1.0, beta_1=0.8), LOSS, metrics=["accuracy"])
    repair = diagnose(model, X, Y).repair()
    optimizer = repair.model.optimizer
    assert float(optimizer.learning_rate.numpy()) < 0.2
    assert optimizer.beta_1 == 0.8
    history = repair.model.fit(X, Y, epochs=15, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert int(model.optimizer.iterations.numpy()) == 0


def test_sigmoid_hidden_layers_become_rectified():
    model = net("sigmoid", "glorot_uniform", middle=[layers.Dense(32, "sigmoid") for _ in range(4)])
    repair = diagnose(model, X, Y, LOSS).repair(seed=1)
    assert repair.losses[1][0] < repair.losses[0][0] / 2
    hidden = [layer.activation.__name__ for layer in repair.model.layers[1:-1]]
    assert set(hidden) == {"relu"}
    assert "replaced by relu" in str(repair)


def test_gates_stay_logistic():
    inputs = keras.Input((4, 3))
    x = layers.LSTM(3, activation="sigmoid", name="lstm")(inputs)
    x = layers.Dense(8, "sigmoid", name="hidden")(x)
    gate = layers.Dense(8, "sigmoid", name="gate")(x)
    frozen = layers.Dense(8, "sigmoid", name="frozen", trainable=False)(x)
    x = layers.Concatenate()([layers.Multiply()([x, gate]), layers.Dense(4)(frozen)])
    model = keras.Model(inputs, layers.Dense(2, "sigmoid", name="output")(x))
    assert hidden_sigmoids(model) == set()
    x = layers.Dropout(0.1)(layers.Dense(8, "sigmoid", name="hidden")(inputs))
    model = keras.Model(inputs, layers.Dense(2, "sigmoid")(layers.Dense(3)(x)))
    assert hidden_sigmoids(model) == {"hidden"}


@pytest.mark.tensorflow  # JAX compiles for long; the rule runs on both.
def test_a_tiny_last_batch_is_mended_by_the_batch_size():
    model = net(middle=[layers.BatchNormalization()])
    repair = diagnose(model, X[:387], Y[:387], LOSS).repair()
    remainder = 387 % repair.batch_size
    assert remainder == 0 or 2 * remainder >= repair.batch_size
    assert not repair.diagnosis.findings


@pytest.mark.tensorflow
def test_no_learning_rate_is_blamed_where_none_helps():
    """The loss is astronomical from the start and NaN after a step of any size."""

    def steps(factor):
        return Steps(0.02 * factor, (3e11, np.nan), (("net/kernel", 0.5),))

    assert not [*learning_rate(SimpleNamespace(steps=steps))]
