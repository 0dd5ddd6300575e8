import keras
import keras_tuner
import numpy as np
import pytest

from kerastools.layers import AlphaDropout, Dropout, SpatialDropout1D
from kerastools.optimizers import SGD, Adam
from kerastools.search import ConvNet, MutableHyperModel, RecurrentNet, dropout, tune

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 6)).astype("float32")
Y = (X[:, :3]).argmax(axis=1)
LOSS = "sparse_categorical_crossentropy"


def net(optimizer="adam", metrics=("accuracy",), layer=keras.layers.Dropout):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            layer(0.3),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizer, LOSS, metrics=list(metrics))
    return model


def built(model):
    hp = keras_tuner.HyperParameters()
    return MutableHyperModel(model).build(hp), hp


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(0.02, clipnorm=1.0),
        keras.optimizers.SGD(0.05, momentum=0.8, nesterov=True, weight_decay=1e-3),
    ],
)
def test_the_copy_learns_as_the_original_does(optimizer):
    """Keras's rule and its stand-in: two steps from the same weights, without dropout."""
    model = net(optimizer, layer=lambda rate: keras.layers.Activation("linear"))
    hp = keras_tuner.HyperParameters()
    config = optimizer.get_config()
    hp.values = {"learning_rate": config["learning_rate"]} | {
        f"1 - {name}": 1 - config[name]
        for name in ("momentum", "beta_1", "beta_2")
        if name in config
    }
    copy = MutableHyperModel(model).build(hp)
    copy.set_weights(model.get_weights())
    for each in (model, copy):
        each.fit(X, Y, batch_size=40, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_live_numbers_are_found_in_the_model():
    copy, hp = built(net(keras.optimizers.SGD(0.2)))
    assert type(copy.layers[1]) is Dropout
    assert type(copy.optimizer) is SGD
    ranges = {h.name: (h.min_value, h.max_value) for h in hp.space}
    assert ranges["learning_rate"] == pytest.approx((0.02, 1.0))
    assert ranges["dropout"] == pytest.approx((0.1, 0.5))
    assert "1 - momentum" in ranges
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    copy, hp = built(net(Adam(schedule), layer=lambda rate: AlphaDropout(rate, name="d")))
    assert [h.name for h in hp.space] == ["dropout", "1 - beta_1", "1 - beta_2"]
    assert type(copy.get_layer("d")) is AlphaDropout


def test_dropout_is_live_in_nested_models_and_of_every_kind_that_can_be():
    kl = keras.layers
    shared = kl.Dropout(0.3)
    inner = keras.Sequential([keras.Input((6, 4)), kl.Dense(4), shared])
    kinds = [kl.SpatialDropout1D(0.3), kl.AlphaDropout(0.3, noise_shape=(None, 1, 4))]
    stay = [kl.GaussianDropout(0.3), kl.LSTM(3, dropout=0.3)]
    inputs = x = keras.Input((6, 4))
    for layer in (inner, *kinds, shared, *stay):
        x = layer(x)
    model = keras.Model(inputs, kl.Dense(3)(x))
    model.compile("adam", "mse")
    hp = keras_tuner.HyperParameters()
    hp.values["dropout"] = 0.26
    copy = MutableHyperModel(model).build(hp)
    twins = [copy.get_layer(layer.name) for layer in (*kinds, shared)]
    assert [type(twin) for twin in twins] == [SpatialDropout1D, AlphaDropout, Dropout]
    assert copy.get_layer(inner.name).get_layer(shared.name) is twins[-1]
    assert [float(twin.rate) for twin in twins] == pytest.approx([0.26] * 3)
    assert twins[1].noise_shape == (None, 1, 4)
    assert copy.get_layer(stay[0].name).rate == copy.get_layer(stay[1].name).dropout == 0.3


def test_the_kind_of_net_gives_the_range_of_dropout():
    for layers, low in (
        ([keras.Input((8, 2)), keras.layers.GRU(2)], 0.2),
        ([keras.Input((8, 2)), keras.layers.Conv1D(2, 3), keras.layers.Flatten()], 0.4),
    ):
        model = keras.Sequential([*layers, keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        assert built(model)[1].space[0].min_value == low


def adapted(layer, data):
    layer.adapt(data)
    return layer


WORDS = np.array([["a b"], ["b c\u2003d"], ["b x"]])
PREPARED = {
    "normalization": (keras.layers.Normalization, {}, 1000 * X + 5000),
    "discretization": (keras.layers.Discretization, {"num_bins": 3}, X),
    "text": (keras.layers.TextVectorization, {"output_mode": "multi_hot", "max_tokens": 4}, WORDS),
    "tf-idf": (keras.layers.TextVectorization, {"output_mode": "tf_idf"}, WORDS),
    "strings": (keras.layers.StringLookup, {"output_mode": "one_hot"}, WORDS),
    "integers": (keras.layers.IntegerLookup, {"num_oov_indices": 2}, np.array([[7], [7], [2]])),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", PREPARED)
@pytest.mark.parametrize("where", ["first", "without input", "nested"])
def test_what_a_layer_learned_of_the_data_is_kept(kind, where):
    make, options, data = PREPARED[kind]
    layer = make(**options, name="prepared")
    layer.adapt(data)
    inputs = keras.Input(data.shape[1:], dtype="string" if data.dtype.kind == "U" else data.dtype)
    first = [] if where == "without input" else [inputs]
    if where == "nested":
        layer = keras.Sequential([inputs, layer])
    model = keras.Sequential([*first, layer, keras.layers.Dense(3)])
    model.compile("adam", "mse")
    copy = built(model)[0]
    made, given = (m.layers[0](keras.ops.convert_to_tensor(data)) for m in (copy, model))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(made), keras.ops.convert_to_numpy(given)
    )


@pytest.mark.tensorflow
def test_a_model_that_prepares_its_data_is_tuned(tmp_path):
    raw = 1000 * X + 5000
    layers = [adapted(keras.layers.Normalization(), raw), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile("adam", LOSS)
    report = tune(model, raw, Y, max_trials=2, directory=tmp_path, epochs=2, verbose=0)
    assert report.best.score < 3
    model.set_weights(report.model.get_weights())


def test_functions_may_be_lambdas_and_nested_models_compiled_and_frozen():
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, name="thawed")])
    inner.trainable = False
    inner.layers[0].trainable = True
    inner.compile("adam", lambda y, p: keras.ops.mean((y - p) ** 2))
    doubled = keras.layers.Lambda(lambda x: 2.0 * x)
    model = keras.Sequential([keras.Input((6,)), inner, doubled, keras.layers.Dense(3)])
    model.compile("adam", lambda y, p: keras.ops.mean((y - p) ** 2))
    copy, _ = built(model)
    assert type(copy) is keras.Sequential
    for mine, given in zip((copy, *copy.layers), (model, *model.layers), strict=True):
        assert mine.trainable == given.trainable
        assert len(mine.trainable_variables) == len(given.trainable_variables)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(*(m.predict(X, verbose=0) for m in (copy, model)))


def test_metrics_are_not_shared_between_copies():
    metric = keras.metrics.SparseCategoricalAccuracy("hits")
    copy, _ = built(net(metrics=[metric]))
    copy.evaluate(X, Y, verbose=0)
    assert float(metric.count) == 0


@pytest.mark.tensorflow
def test_a_model_is_tuned_in_one_call(tmp_path):
    model = net()
    before = model.get_weights()
    report = tune(
        model, X, Y, max_trials=4, population=2, seed=3, directory=tmp_path, epochs=2, verbose=0
    )
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert [t.status for t in report.trials] == ["COMPLETED"] * 4
    held_out = np.random.default_rng(3).permutation(80)[:16]
    loss, _ = report.model.evaluate(X[held_out], Y[held_out], verbose=0)
    assert loss == pytest.approx(report.best.score, rel=1e-5)
    again = tune(model, X, Y, max_trials=5, seed=3, directory=tmp_path, epochs=2, verbose=0)
    assert again.trials[:4] == report.trials
    assert len(again.trials) == 5


@pytest.mark.tensorflow
def test_a_builder_of_ones_own_is_searched(tmp_path):
    def build(hp):
        if hp.Float("rate", 1e-3, 1.0, sampling="log") > 0.5:
            raise ValueError("too large")
        return net(Adam(hp.get("rate")), layer=Dropout)

    with pytest.warns(UserWarning, match="too large"):
        report = tune(build, X, Y, max_trials=6, seed=3, epochs=1, verbose=0)
    statuses = {t.status for t in report.trials}
    assert statuses == {"COMPLETED", "FAILED"}
    assert report.best.values["rate"] <= 0.5


@pytest.mark.parametrize(
    ("model", "fit", "error", "message"),
    [
        ("net", {}, TypeError, "tune needs a compiled keras.Model"),
        (keras.Sequential([keras.Input((6,))]), {}, ValueError, "needs a compiled model"),
        (lambda: None, {}, TypeError, "MutableHyperModel needs a builder.*returned None"),
        (lambda hp: None, {}, TypeError, "It returned None"),
        (net, {"objective": "val_f1"}, ValueError, "specify|val_f1"),
        (net, {"objective": keras_tuner.Objective("val_f1", "max")}, ValueError, "reported are"),
        (lambda hp: net(), {}, ValueError, "defined none"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_trial(tmp_path, model, fit, error, message):
    with pytest.raises(error, match=message):
        tune(model, X, Y, directory=tmp_path, epochs=1, verbose=0, **fit)
    assert not list(tmp_path.rglob("trial_*"))
    assert not list(tmp_path.rglob("optuna.journal"))


def test_data_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="same number of rows"):
        tune(net(), X, Y[:3])
    with pytest.raises(ValueError, match="Pass validation_data"):
        tune(net(), iter([]))


class Sub(keras.Model):
    def call(self, x):
        return x


def test_a_subclassed_model_is_refused():
    model = Sub()
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="Write build"):
        MutableHyperModel(model)


@pytest.mark.parametrize(
    ("hypermodel", "shape", "low"),
    [
        (ConvNet((8, 8, 1), 3, filters=(4, 8), units=8), (2, 8, 8, 1), 0.4),
        (RecurrentNet((8, 4), 3, units=4, depth=2, cell="lstm"), (2, 8, 4), 0.2),
    ],
)
def test_the_nets_build_with_every_optimizer_they_may_choose(hypermodel, shape, low):
    for optimizer in ("sgd", "adam"):
        hp = keras_tuner.HyperParameters()
        hp.values["optimizer"] = optimizer
        model = hypermodel.build(hp)
        assert type(model.optimizer) is {"sgd": SGD, "adam": Adam}[optimizer]
        assert hp.values["dropout"] == low
        # Known from the first build on, whichever optimizer it chose.
        assert {"adam_learning_rate", "1 - beta_2", "sgd_learning_rate", "1 - momentum"} <= {
            h.name for h in hp.space
        }
        assert any(isinstance(layer, Dropout) for layer in model.layers)
    y = model.predict(np.ones(shape, "float32"), verbose=0)
    np.testing.assert_allclose(y.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvNet((3, 8, 1), 3),
        lambda: ConvNet((8, 8), 3),
        lambda: ConvNet((8, 8, 1), 0),
        lambda: ConvNet((8, 8, 1), 3, filters=()),
        lambda: RecurrentNet((8,), 3),
        lambda: RecurrentNet((8, 4), 3, units=0),
        lambda: RecurrentNet((8, 4), 3, cell="rnn"),
    ],
)
def test_nets_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match="Received"):
        make()


def test_ranges_of_dropout_by_kind():
    for kind, low, high in (
        ("dense", 0.1, 0.5),
        ("recurrent", 0.2, 0.3),
        ("convolutional", 0.4, 0.5),
    ):
        hp = keras_tuner.HyperParameters()
        dropout(hp, kind)
        (asked,) = hp.space
        assert (asked.min_value, asked.max_value) == pytest.approx((low, high))
