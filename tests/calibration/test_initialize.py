import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.calibration import initialize
from kerastools.layers import Dropout


def schemes_printed(model, capsys, scheme="by_activation"):
    """Returns (activation, initializer) of each kernel, as the table tells it."""
    capsys.readouterr()
    initialize(model, scheme, verbose=True)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    return {row[0]: (row[2], row[3]) for row in rows if "kernel" in row[1]}


def test_it_takes_the_activation_that_really_follows(capsys):
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="own", activation="selu")(x)
    x = layers.Conv2D(4, 3, padding="same", name="behind_norm")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.1)(x)
    x = skip = layers.LeakyReLU()(x)
    x = layers.Conv2D(4, 3, padding="same", name="behind_sum")(x)
    x = layers.Add()([x, skip])
    x = keras.ops.relu(x)
    x = layers.Conv2D(4, 3, name="behind_pooling")(x)
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = Dropout(0.1)(layers.Activation("tanh")(x))
    x = layers.Dense(4, name="no_activation")(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax", name="output")(x))
    assert schemes_printed(model, capsys) == {
        "own": ("selu", "LecunNormal"),
        "behind_norm": ("leaky_relu", "HeNormal"),
        "behind_sum": ("relu", "HeNormal"),
        "behind_pooling": ("tanh", "GlorotNormal"),
        "no_activation": ("linear", "GlorotNormal"),
        "output": ("softmax", "GlorotNormal"),
    }


def test_it_enters_nested_models_and_looks_out_of_them(capsys):
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6, activation="elu", name="a"), layers.Dense(6, name="b")],
        name="inner",
    )
    activated = keras.Sequential([keras.Input((6,)), layers.ReLU()], name="activated")
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="first")(inputs)
    x = inner(activated(x))
    x = layers.TimeDistributed(layers.Dense(3, name="each"))(layers.Reshape((2, 3))(x))
    model = keras.Model(inputs, layers.Activation("selu")(x))
    assert schemes_printed(model, capsys) == {
        "first": ("relu", "HeNormal"),
        "inner/a": ("elu", "HeNormal"),
        "inner/b": ("linear", "GlorotNormal"),
        "time_distributed/each": ("selu", "LecunNormal"),
    }


def test_kernels_have_the_variance_of_their_scheme():
    x = inputs = keras.Input((10, 10, 64))
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(x)
    x = layers.Conv2DTranspose(32, 4, strides=2, activation="selu", name="up")(x)
    model = initialize(keras.Model(inputs, x), "by_activation", seed=1)
    for name, variance in [("depthwise", 2 / 9), ("up", 1 / (16 * 64 / 4))]:
        kernel = ops.convert_to_numpy(model.get_layer(name).kernel)
        assert kernel.var() == pytest.approx(variance, rel=0.1)


def all_kinds():
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, kernel_initializer=keras.initializers.HeNormal(seed=1))(
        inputs, inputs
    )
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    x = layers.LSTM(8, kernel_initializer=keras.initializers.GlorotUniform(seed=1))(x)
    shared = layers.Dense(8, activation="relu", bias_initializer="ones")
    x = layers.BatchNormalization()(shared(shared(x)))
    return keras.Model(inputs, x)


def numbers(model):
    return [ops.convert_to_numpy(v).copy() for v in model.weights]


@pytest.mark.tensorflow  # That draws repeat is tested on both.
def test_every_variable_gets_a_draw_of_its_own():
    model = initialize(all_kinds(), seed=1)
    drawn = [ops.convert_to_numpy(v).ravel() for v in model.weights if "kernel" in v.name]
    assert len(drawn) == 11
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            n = min(len(a), len(b))
            assert not np.allclose(a[:n] / a[0], b[:n] / b[0])


def test_a_seed_repeats_the_draws_and_none_does_not():
    first, again, other, fresh, fresher = (
        numbers(initialize(all_kinds(), seed=seed)) for seed in (1, 1, 2, None, None)
    )
    names = [v.name for v in all_kinds().weights]
    for i, w in enumerate(first):
        np.testing.assert_array_equal(w, again[i])
        if "kernel" in names[i]:
            assert (w != other[i]).any()
            assert (fresh[i] != fresher[i]).any()


def test_it_changes_the_model_in_place_and_returns_it():
    model = all_kinds()
    before = numbers(model)
    assert initialize(model) is model
    assert any((a != b).any() for a, b in zip(before, numbers(model), strict=True))


def test_everything_without_a_kernel_starts_again_as_the_layer_says():
    model = all_kinds()
    lstm, dense, norm = model.layers[-3], model.layers[-2], model.layers[-1]
    for variable in model.weights:
        variable.assign(ops.full(variable.shape, 0.5))
    initialize(model, seed=1)
    np.testing.assert_array_equal(lstm.cell.bias, np.repeat([0, 1, 0, 0], 8))
    np.testing.assert_array_equal(dense.bias, np.ones(8))
    np.testing.assert_array_equal(norm.gamma, np.ones(8))
    np.testing.assert_array_equal(norm.moving_mean, np.zeros(8))
    np.testing.assert_array_equal(norm.moving_variance, np.ones(8))
    recurrent = ops.convert_to_numpy(lstm.cell.recurrent_kernel)
    for gate in np.split(recurrent, 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(8), atol=1e-5)


def test_frozen_layers_and_adapted_statistics_are_kept():
    normalization = layers.Normalization()
    normalization.adapt(np.arange(12.0).reshape(4, 3))
    model = keras.Sequential([keras.Input((3,)), normalization, layers.Dense(4), Dropout(0.3)])
    model.add(layers.Dense(2))
    model.layers[1].trainable = False
    before = numbers(model)
    initialize(model, seed=1)
    after = numbers(model)
    triples = zip(model.weights, before, after, strict=True)
    changed = [id(v) for v, a, b in triples if (a != b).any()]
    assert changed == [id(model.layers[-1].kernel)]


def test_a_named_scheme_is_used_for_all_kernels(capsys):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "relu"), layers.Dense(2)])
    found = schemes_printed(model, capsys, scheme="lecun_uniform")
    assert {scheme for _, scheme in found.values()} == {"LecunUniform"}


def test_what_its_author_chose_stays_where_it_lets_the_model_learn(capsys):
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = layers.Conv2D(8, 1, name="pointwise")(x)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="normalized")(x)
    x = layers.BatchNormalization()(layers.ReLU()(x))
    branch = layers.Conv2D(8, 1, activation="relu", kernel_initializer="he_uniform", name="in")(x)
    branch = layers.Conv2D(8, 1, kernel_initializer="zeros", name="out")(branch)
    x = layers.Add()([x, branch])
    gate = layers.Dense(8, "sigmoid", kernel_initializer="zeros", name="gate")(x)
    x = layers.GlobalAveragePooling2D()(x * gate)
    x = layers.Dense(8, kernel_initializer="identity", name="same")(x)
    prior = keras.initializers.Constant(-2.0)
    head = layers.Dense(1, "sigmoid", bias_initializer=prior, kernel_initializer="zeros", name="y")
    model = keras.Model(inputs, head(x))
    found = schemes_printed(model, capsys, "auto")
    assert {name: scheme for name, (_, scheme) in found.items()} == {
        **dict.fromkeys(("conv", "depthwise", "pointwise", "normalized"), "GlorotUniform"),
        "in": "HeUniform",
        "out": "Zeros",
        "gate": "Zeros",
        "same": "Identity",
        "y": "Zeros",
    }
    np.testing.assert_array_equal(model.get_layer("y").bias, [-2.0])
    # With the fans that it has; where its signal is normalized, with those that Keras reads.
    for name, variance in (("depthwise", 1 / 9), ("normalized", 2 / (72 + 9))):
        kernel = ops.convert_to_numpy(model.get_layer(name).kernel)
        assert kernel.var() == pytest.approx(variance, rel=0.35)


@pytest.mark.parametrize("wrong", ["zeros", "ones", keras.initializers.RandomNormal(stddev=3.0)])
def test_a_kernel_that_cannot_learn_is_drawn_by_the_scheme_that_suits_it(capsys, wrong):
    hidden = layers.Dense(16, activation="relu", kernel_initializer=wrong, name="wrong")
    before = layers.Dense(16, activation="relu", name="before")
    model = keras.Sequential([keras.Input((16,)), before, hidden, layers.Dense(2, name="y")])
    found = schemes_printed(model, capsys, "auto")
    assert {name: scheme for name, (_, scheme) in found.items()} == {
        "before": "GlorotUniform",
        "wrong": "HeNormal",
        "y": "GlorotUniform",
    }


@pytest.mark.parametrize(("depth", "between"), [(8, "nothing"), (8, "norm"), (8, "sum"), (3, "")])
def test_a_chain_that_loses_the_signal_is_drawn_by_the_schemes_that_suit_it(capsys, depth, between):
    x = inputs = keras.Input((16,))
    for i in range(depth):
        y = layers.Dense(16, activation="relu", name=f"hidden_{i}")(layers.Dropout(0.1)(x))
        if between == "norm":
            y = layers.LayerNormalization()(y)
        x = layers.Add()([x, y]) if between == "sum" else y
    found = schemes_printed(keras.Model(inputs, layers.Dense(2)(x)), capsys, "auto")
    want = "HeNormal" if between == "nothing" else "GlorotUniform"
    assert {s for name, (_, s) in found.items() if name.startswith("hidden")} == {want}


def test_the_signal_survives_twenty_rectified_layers():
    moments = {}
    for name in ("Keras", "kerastools"):
        hidden = [layers.Dense(128, activation="relu") for _ in range(20)]
        model = keras.Sequential([keras.Input((128,)), *hidden])
        if name == "kerastools":
            initialize(model, seed=1)
        x = np.random.default_rng(1).normal(size=(256, 128)).astype("float32")
        moments[name] = float(ops.mean(ops.square(model(x))))
    assert moments["Keras"] < 1e-4
    assert 0.1 < moments["kerastools"] < 10


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_bad_models_are_refused_with_the_way_to_mend_them():
    with pytest.raises(ValueError, match="built"):
        initialize(keras.Sequential([layers.Dense(2)]))
    subclassed = Subclassed()
    subclassed(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match="functional"):
        initialize(subclassed)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        initialize(layers.Dense(2))


class Failing(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        if self.fails:
            raise RuntimeError("no more numbers")
        return ops.zeros(shape, dtype)

    fails = False


def test_nothing_is_changed_when_something_fails(monkeypatch):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    model.add(layers.Dense(2, bias_initializer=Failing()))
    before = numbers(model)
    monkeypatch.setattr(Failing, "fails", True)
    with pytest.raises(RuntimeError):
        initialize(model, seed=1)
    with pytest.raises(ValueError, match="scheme"):
        initialize(model, "kaiming")
    for a, b in zip(before, numbers(model), strict=True):
        np.testing.assert_array_equal(a, b)


def silu_net(depth, activation="silu", norm=False):
    stack = [keras.Input((8,))]
    for _ in range(depth):
        stack += [layers.Dense(8), *([layers.LayerNormalization()] if norm else [])]
        stack.append(layers.Activation(activation))
    return keras.Sequential([*stack, layers.Dense(1)])


def test_a_deep_net_without_a_stable_gain_is_warned_of():
    with pytest.warns(UserWarning, match="silu has no stable gain: over the 20 layers"):
        initialize(silu_net(20), seed=1)
    for sound in (silu_net(3), silu_net(20, "relu"), silu_net(20, norm=True)):
        initialize(sound, seed=1)


def test_same_padding_is_counted_on_request():
    inner = keras.Sequential([keras.Input((4, 4, 8)), layers.Conv2D(64, 3, padding="same")])
    inputs = keras.Input((4, 4, 8))
    model = keras.Model(inputs, layers.ReLU()(inner(inputs)))
    kernel = inner.layers[0].kernel
    he = {"scheme": "by_activation", "seed": 1}
    plain = ops.convert_to_numpy(initialize(model, **he) and kernel).copy()
    counted = ops.convert_to_numpy(initialize(model, same_padding=True, **he) and kernel)
    np.testing.assert_allclose(counted, plain * (3 * 4 / 10), rtol=1e-5)


def test_a_deep_depthwise_net_keeps_its_signal_where_keras_loses_it():
    def features(mend):
        keras.utils.set_random_seed(1)
        he = {
            f"{k}_initializer": keras.initializers.HeNormal(seed=s)
            for s, k in enumerate(("depthwise", "pointwise"))
        }
        stack = [keras.Input((8, 8, 64))]
        for _ in range(6):
            stack.append(layers.SeparableConv2D(64, 3, padding="same", activation="relu", **he))
        model = keras.Sequential(stack)
        if mend:
            initialize(model, "by_activation", seed=1)
        x = np.random.default_rng(1).normal(size=(8, 8, 8, 64)).astype("float32")
        return float(ops.mean(ops.square(model(x))))

    assert features(mend=False) < 1e-6
    assert 0.02 < features(mend=True) < 5


def test_a_depthwise_net_keeps_the_signal_that_keras_loses():
    """Which leaves Keras's at chance on digits, `benchmarks/gains.py` shows."""
    keras.utils.set_random_seed(1)
    stack = [keras.Input((8, 8, 1)), layers.Conv2D(64, 3, padding="same", activation="relu")]
    for _ in range(6):
        depthwise = layers.DepthwiseConv2D(3, padding="same", depthwise_initializer="he_normal")
        stack += [depthwise, layers.ReLU()]
        stack += [layers.Conv2D(64, 1, kernel_initializer="he_normal"), layers.ReLU()]
    model = keras.Sequential(stack)
    x = np.random.default_rng(1).normal(size=(32, 8, 8, 1)).astype("float32")
    kerass = float(ops.mean(ops.square(model(x))))
    ours = float(ops.mean(ops.square(initialize(model, seed=1)(x))))
    assert kerass < 1e-8
    assert 1e-3 < ours < 1e2
