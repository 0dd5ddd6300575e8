import functools
import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.calibration import initialize
from kerastools.diagnosis import diagnose

LOSS = "sparse_categorical_crossentropy"


def normal(stddev, seed=3):
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)


def dense_net(
    activation, initializer, depth, width=256, norm=False, separate=False, bias="zeros", seed=1
):
    """A stack of dense layers; the activation is the layers' own or stands behind them."""
    keras.utils.set_random_seed(seed)
    own = not (norm or separate)
    stack = [keras.Input((width,))]
    for i in range(depth):
        # A seeded Keras initializer would give every layer the same numbers.
        kernel = normal(1.0, 1000 * seed + i) if initializer == "N(0, 1)" else initializer
        stack.append(
            layers.Dense(
                width,
                activation=activation if own else None,
                kernel_initializer=kernel,
                bias_initializer=bias,
                name=f"hidden_{i + 1}",
            )
        )
        if norm:
            stack.append(layers.BatchNormalization())
        if not own:
            stack.append(layers.Activation(activation))
    return keras.Sequential([*stack, layers.Dense(10, activation="softmax", name="output")])


def data(width=256, rows=256, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, width)).astype("float32"), rng.integers(0, 10, rows)


def rules(model, x, y, **arguments):
    return [f.rule for f in diagnose(model, x, y, **{"loss": LOSS, **arguments}).findings]


# The faults -------------------------------------------------------------------------------------

WRONG = ["wrong initialisation"]
NETS = {
    "relu Glorot": (("relu", "glorot_uniform", 50), ["vanishing signal"]),
    "relu RandomNormal": (("relu", "random_normal", 50), ["vanishing signal"]),
    "relu He": (("relu", "he_normal", 50), []),
    "relu N(0, 1) deep": (("relu", "N(0, 1)", 50), ["not finite", "exploding signal", *WRONG]),
    "relu N(0, 1)": (("relu", "N(0, 1)", 10), ["exploding signal", *WRONG]),
    "sigmoid N(0, 1)": (("sigmoid", "N(0, 1)", 10), ["saturated", *WRONG]),
    "sigmoid Glorot": (("sigmoid", "glorot_uniform", 10), ["vanishing gradient"]),
    "tanh N(0, 1)": (("tanh", "N(0, 1)", 10), ["exploding gradient", "saturated", *WRONG]),
    "tanh Glorot": (("tanh", "glorot_uniform", 10), []),
}

ZERO_GRADIENT = ("relu N(0, 1) deep", "relu N(0, 1)", "relu RandomNormal")


@functools.cache
def diagnosis_of(name):
    return diagnose(dense_net(*NETS[name][0]), *data(), LOSS, batch_size=256)


def hidden(diagnosis):
    return [s for s in diagnosis.signals if s.has_kernel and not s.is_output]


@pytest.mark.parametrize("name", NETS)
def test_known_faults_are_found_for_what_they_are(name):
    assert [f.rule for f in diagnosis_of(name).findings] == NETS[name][1]


@pytest.mark.tensorflow  # Fused activations are judged on both.
@pytest.mark.parametrize("name", ["relu N(0, 1)", "sigmoid N(0, 1)", "sigmoid Glorot"])
def test_activations_behind_their_layer_are_judged_alike(name):
    net, expected = NETS[name]
    assert rules(dense_net(*net, separate=True, seed=2), *data(seed=2)) == expected


def test_figures_are_those_of_the_published_picture():
    # Under ReLU with N(0, 1) the softmax saturates, and with tiny weights float32 underflows: the
    # gradient is exactly 0 on some backends, and there is no ratio.
    finite = [name for name in NETS if name not in ZERO_GRADIENT]
    signals = {name: hidden(diagnosis_of(name)) for name in finite}
    ratio = {k: s[0].gradient_mean / s[-1].gradient_mean for k, s in signals.items()}
    change = {k: s[-1].second_moment / s[0].second_moment for k, s in signals.items()}
    assert min(s.saturated for s in signals["sigmoid N(0, 1)"]) > 0.7
    assert ratio["sigmoid Glorot"] < 1e-5
    assert max(s.saturated for s in signals["sigmoid Glorot"]) < 0.01
    assert 0.5 < ratio["tanh Glorot"] < 2
    assert ratio["tanh N(0, 1)"] > 1e3
    assert min(s.saturated for s in signals["tanh N(0, 1)"]) > 0.85
    # Half of the second moment is lost per layer: 2 ** -49 = 1.8e-15 in all.
    assert 1e-17 < change["relu Glorot"] < 1e-13
    assert np.log10(change["relu Glorot"]) / 49 == pytest.approx(-np.log10(2), abs=0.03)
    assert 1e-2 < change["relu He"] < 1e2
    # The usual ratio of first to last gradient sees nothing in the two commonest faults.
    assert 1e-3 < ratio["relu Glorot"] < 70
    assert 1e-3 < ratio["sigmoid N(0, 1)"] < 70


def test_pre_activations_grow_under_standard_normal_weights():
    model = dense_net("sigmoid", "N(0, 1)", 10, separate=True)
    signals = diagnose(model, *data(), LOSS, batch_size=256).signals
    before = [s.variance for s in signals if s.has_kernel and not s.is_output]
    assert before[0] == pytest.approx(256, rel=0.1)
    assert all(90 < v < 150 for v in before[1:])


def test_the_slope_says_how_fast_the_signal_is_lost():
    finding = diagnosis_of("relu Glorot").findings[0]
    assert finding.value == pytest.approx(-np.log10(2), abs=0.03)
    assert finding.threshold == -0.15
    assert finding.layer == "hidden_50"
    assert "initialize(model)" in finding.fix


def test_the_first_layer_that_is_not_finite_is_named():
    model = dense_net("relu", "he_normal", 6)
    kernel = model.get_layer("hidden_4").kernel
    kernel.assign(ops.convert_to_numpy(kernel) * np.float32(np.nan))
    finding = diagnose(model, *data(), LOSS).findings[0]
    assert (finding.rule, finding.layer) == ("not finite", "hidden_4")


def test_dead_units_are_found_and_named():
    model = dense_net("relu", "he_normal", 6, bias=keras.initializers.Constant(-3.0))
    assert "dead units" in rules(model, *data())
    model = dense_net("relu", "he_normal", 6, width=64)
    model.get_layer("hidden_3").bias.assign(np.full(64, -50.0))
    finding = next(f for f in diagnose(model, *data(64), LOSS).findings if f.rule == "dead units")
    assert (finding.layer, finding.value) == ("hidden_3", 1.0)
    assert 0.7 <= finding.threshold < 1


@pytest.mark.parametrize("rows", [257, 259, 263])
def test_a_tiny_last_batch_with_batch_normalisation_is_found(rows):
    model = dense_net("relu", "he_normal", 5, width=64, norm=True)
    diagnosis = diagnose(model, *data(64, rows), LOSS, batch_size=32)
    (finding,) = diagnosis.findings
    assert finding.rule == "batch normalisation with a tiny last batch"
    assert finding.value == rows - 256
    assert f"x[:-{rows - 256}]" in finding.fix


def test_a_last_batch_is_no_fault_if_it_is_whole_or_large_or_nothing_uses_it():
    net = {"activation": "relu", "initializer": "he_normal", "depth": 5, "width": 64}
    assert rules(dense_net(**net, norm=True), *data(64, 256)) == []
    assert rules(dense_net(**net, norm=True), *data(64, 272)) == []
    assert rules(dense_net(**net), *data(64, 259)) == []
    frozen = dense_net(**net, norm=True)
    for layer in frozen.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    assert rules(frozen, *data(64, 259)) == []


# Sound nets -------------------------------------------------------------------------------------

SOUND = [("relu", "he_normal"), ("selu", "lecun_normal"), ("tanh", "glorot_uniform")]


def alarms(activation, initializer, norm, depth, seeds, width=64):
    """Returns what is found in one sound net whose weights are drawn with each of the seeds."""
    model = dense_net(activation, initializer, depth, width, norm)
    return [
        f
        for seed in seeds
        for f in rules(initialize(model, initializer, seed), *data(width, seed=seed))
    ]


@pytest.mark.parametrize(("activation", "initializer"), SOUND)
def test_sound_nets_raise_no_alarm(activation, initializer):
    assert alarms(activation, initializer, False, 10, range(10)) == []
    assert alarms(activation, initializer, False, 50, [1]) == []
    assert alarms(activation, initializer, True, 20, range(2)) == []


@pytest.mark.tensorflow  # JAX compiles for half a minute; dense nets run on both.
def test_sound_convolutional_and_recurrent_nets_raise_no_alarm():
    rng = np.random.default_rng(1)
    stack = [keras.Input((16, 16, 3))]
    for filters in (16, 16, 32, 32, 64, 64):
        stack += [
            layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal"),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    stack += [layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(10, "softmax")]
    x, y = rng.normal(size=(64, 16, 16, 3)).astype("float32"), rng.integers(0, 10, 64)
    assert rules(keras.Sequential(stack), x, y) == []
    recurrent = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Embedding(100, 32),
            layers.Bidirectional(layers.LSTM(16, return_sequences=True)),
            layers.LayerNormalization(),
            layers.GRU(16, return_sequences=True),
            layers.SimpleRNN(16),
            layers.Dense(10, "softmax"),
        ]
    )
    assert rules(recurrent, rng.integers(0, 100, (64, 12)), y) == []


def test_initialize_mends_what_it_is_named_for():
    for activation, initializer in [("relu", "glorot_uniform"), ("tanh", "N(0, 1)")]:
        model = dense_net(activation, initializer, 20, width=128)
        assert rules(model, *data(128)) != []
        assert rules(initialize(model, seed=1), *data(128)) == []


# The model is left alone ------------------------------------------------------------------------


def everything_in_it():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activity_regularizer="l2")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.SpatialDropout2D(0.3, seed=1)(layers.ReLU()(x))
    inner = keras.Sequential(
        [keras.Input((6, 6, 4)), layers.Conv2D(4, 3), layers.BatchNormalization()], name="inner"
    )
    x = inner(x)
    x = layers.Reshape((16, 4))(x)
    x = layers.MultiHeadAttention(2, 4, dropout=0.2)(x, x)
    x = layers.LSTM(4, dropout=0.2, seed=1)(x)
    x = layers.GaussianNoise(0.1, seed=2)(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    model.compile("adam", LOSS, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


def state_of(model):
    values = [ops.convert_to_numpy(v).copy() for v in model.variables]
    optimizer = [ops.convert_to_numpy(v).copy() for v in model.optimizer.variables]
    return values + optimizer


@pytest.mark.tensorflow  # JAX compiles for half a minute.
def test_the_model_is_left_as_it_was_to_the_bit_and_nested_layers_are_told_by_their_path():
    model = everything_in_it()
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(32, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 32)
    for i, variable in enumerate(model.optimizer.variables[1:] + model.non_trainable_variables):
        if "float" in str(variable.dtype):
            variable.assign(ops.full(variable.shape, 0.5 + 0.01 * i))
    before, flags = state_of(model), [layer.trainable for layer in model.layers]
    losses = len(model.losses)
    first = diagnose(model, x, y)
    second = diagnose(model, x, y)
    after = state_of(model)
    assert len(after) == len(before)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [layer.trainable for layer in model.layers] == flags
    assert len(model.losses) <= losses
    assert first.to_dict() == second.to_dict()
    paths = [s.layer for s in first.signals]
    inner = model.get_layer("inner").layers
    assert f"inner/{inner[0].name}" in paths
    assert f"inner/{inner[1].name}" in paths


# Losses and inputs ------------------------------------------------------------------------------


def test_the_compiled_loss_is_used():
    model = dense_net("relu", "he_normal", 5, width=32)
    x, y = data(32)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy())
    diagnosis = diagnose(model, x, y, batch_size=256)
    assert diagnosis.loss == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
    assert diagnosis.num_rows == 256


@pytest.mark.tensorflow  # How data is read is the same on both.
def test_several_inputs_and_outputs_may_be_lists_or_dictionaries():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    joined = layers.Concatenate()([layers.Dense(8, "relu")(a), layers.Dense(8, "relu")(b)])
    one = layers.Dense(2, activation="softmax", name="one")(joined)
    two = layers.Dense(1, name="two")(joined)
    rng = np.random.default_rng(1)
    xa, xb = rng.normal(size=(20, 4)).astype("float32"), rng.normal(size=(20, 3)).astype("float32")
    ya, yb = rng.integers(0, 2, 20), rng.normal(size=20).astype("float32")
    listed = keras.Model([a, b], [one, two])
    losses = [
        diagnose(listed, [xa, xb], [ya, yb], [LOSS, "mse"]).loss,
        diagnose(
            listed, {"a": xa, "b": xb}, {"one": ya, "two": yb}, {"one": LOSS, "two": "mse"}
        ).loss,
    ]
    named = keras.Model({"a": a, "b": b}, {"one": one, "two": two})
    named.compile(loss={"one": LOSS, "two": "mse"})
    losses.append(diagnose(named, {"b": xb, "a": xa}, {"two": yb, "one": ya}).loss)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)
    only = diagnose(named, {"b": xb, "a": xa}, {"two": yb, "one": ya}, {"two": "mse"}).loss
    assert 0 < only < losses[0]


@pytest.mark.tensorflow  # How data is read is the same on both.
def test_dictionaries_may_be_in_any_order():
    """Keras flattens them by their sorted keys, whatever the order that they were written in."""
    inputs = {name: keras.Input((n,), name=name) for name, n in (("b", 3), ("a", 4))}
    joined = layers.Concatenate()([layers.Dense(8, "relu")(t) for t in inputs.values()])
    outputs = {
        "two": layers.Dense(5, activation="softmax", name="q")(joined),
        "one": layers.Dense(1, name="p")(joined),
    }
    rng = np.random.default_rng(1)
    x = {n: rng.normal(size=(64, k)).astype("float32") for n, k in (("b", 3), ("a", 4))}
    x["a"] = 500 * x["a"]
    y = {"two": np.arange(64) % 5, "one": x["a"][:, 0] / 500}
    model = keras.Model(inputs, outputs)
    diagnosis = diagnose(model, x, y, {"two": LOSS, "one": "mse"})
    assert [f.rule for f in diagnosis.findings] == ["inputs not normalised"]
    repair = diagnosis.repair(seed=1)
    assert repair.diagnosis.findings == ()
    scales = {
        layer.variance.shape[-1]: float(ops.max(layer.variance))
        for layer in repair.model.layers
        if isinstance(layer, layers.Normalization)
    }
    assert set(scales) == {4}
    assert scales[4] > 1e5
    with pytest.raises(ValueError, match=r"inputs \['a', 'b'\]"):
        diagnose(model, {"a": x["a"]}, y, {"two": LOSS, "one": "mse"})


def test_bad_arguments_are_refused_with_the_way_to_mend_them():
    model = dense_net("relu", "he_normal", 5, width=8)
    x, y = data(8, 20)

    def refused(message, *arguments, error=ValueError, **named):
        with pytest.raises(error, match=message):
            diagnose(*arguments, **named)

    refused("compile", model, x, y)
    refused("rows", model, x, y[:-1], LOSS)
    refused("shapes", model, x[:, :5], y, LOSS)
    refused("shapes", model, [x, x], y, LOSS)
    refused("sparse_categorical_crossentropy", model, x, y + 5, "categorical_crossentropy")
    refused("one-hot", model, x, np.eye(10)[y] / 2, LOSS)
    refused("from 0 to 9", model, x, y + 11, LOSS)
    refused("from 0 to 9", model, x, y - 0.5, LOSS)
    refused("batch_size of at least 1", model, x, y, LOSS, batch_size=0)
    refused("at least one row", model, x[:0], y[:0], LOSS)
    bad = x.copy()
    bad[3, 2] = np.nan
    refused(r"first at index \(3, 2\)", model, bad, y, LOSS)
    refused("keras.Model", layers.Dense(2), x, y, LOSS, error=TypeError)
    refused("build", keras.Sequential([layers.Dense(2)]), x, y, LOSS)

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    subclassed = Subclassed()
    subclassed(x)
    refused("functional", subclassed, x, y, LOSS)


def test_a_silent_broadcast_of_targets_is_refused():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    x, y = data(8, 20)
    with pytest.raises(ValueError, match="broadcast"):
        diagnose(model, x, y.astype("float32"), "mse")
    single = keras.Sequential([keras.Input((8,)), layers.Dense(1)])
    assert np.isfinite(diagnose(single, x, y.astype("float32"), "mse").loss)
    assert np.isfinite(diagnose(single, x, y[:, None].astype("float32"), "mse").loss)
    assert np.isfinite(diagnose(model, x, y, lambda a, b: ops.mean(b)).loss)


# The report -------------------------------------------------------------------------------------


def test_the_report_prints_its_findings_as_a_table():
    text = str(diagnosis_of("relu Glorot"))
    assert "1 finding." in text
    assert "vanishing signal" in text
    assert "Fix: kerastools.calibration.initialize(model)" in text
    assert max(map(len, text.splitlines())) <= 120
    sound = str(diagnosis_of("relu He"))
    assert sound.endswith("nothing wrong was found.")


def test_the_report_is_ready_for_json():
    diagnosis = diagnosis_of("relu N(0, 1)")
    report = json.loads(json.dumps(diagnosis.to_dict()))
    assert [f["rule"] for f in report["findings"]] == [f.rule for f in diagnosis.findings]
    assert [s["layer"] for s in report["signals"]] == [s.layer for s in diagnosis.signals]


def test_the_picture_shows_forward_and_backward_signals(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    diagnosis = diagnosis_of("relu Glorot")
    diagnosis.plot(tmp_path / "signals.png")
    assert (tmp_path / "signals.png").stat().st_size > 5000
    axes = Figure().subplots()
    assert diagnosis.plot(axes) is axes.figure
    forward, backward = (line.get_ydata() for line in axes.get_lines())
    hidden = [s for s in diagnosis.signals if s.has_kernel]
    np.testing.assert_allclose(forward, [s.second_moment for s in hidden])
    np.testing.assert_allclose(backward, [s.gradient_mean for s in hidden])
    assert axes.get_yscale() == "log"
    # Infinite figures leave a gap.
    broken = diagnosis_of("relu N(0, 1) deep").plot().axes[0]
    assert np.isnan(broken.get_lines()[0].get_ydata()).any()


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    import sys

    diagnosis = diagnose(dense_net("relu", "he_normal", 5, width=8), *data(8), LOSS)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"kerastools\[plot\]"):
        diagnosis.plot()
