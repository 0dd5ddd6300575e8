"""`FeatureCache`: the losses of the uncached run, or a refusal that says why."""

import keras
import numpy as np
import pytest

from kerastools import layers as ours
from kerastools.transfer import FeatureCache

# Where nothing depends on the compiled step, TensorFlow need not trace it.
EAGERLY = keras.backend.backend() == "tensorflow"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6)).astype("float32")
Y = RNG.integers(0, 4, 80)


def make_model(nested=False, **compile_arguments):
    """A residual trunk with calibrated statistics, frozen, and a head of two layers."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((6,))
    for i in range(2):
        shortcut = x
        x = keras.layers.Dense(6, name=f"dense_{i}")(x)
        x = keras.layers.BatchNormalization(name=f"norm_{i}")(x)
        x = keras.layers.Add(name=f"add_{i}")([shortcut, keras.layers.ReLU()(x)])
    trunk = keras.Model(inputs, x, name="trunk")
    rng = np.random.default_rng(2)
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(size=6))
            layer.moving_variance.assign(rng.uniform(0.2, 0.8, size=6))
    trunk.trainable = False
    y = trunk(inputs) if nested else trunk.output
    y = keras.layers.LayerNormalization(center=False, scale=False, name="pool")(y)
    y = keras.layers.Dense(5, "tanh", name="hidden")(y)
    y = keras.layers.Dense(4, name="classes")(y)
    model = keras.Model(inputs, y)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    arguments = {"optimizer": keras.optimizers.Adam(0.01), "loss": loss, "run_eagerly": EAGERLY}
    model.compile(**arguments | compile_arguments)
    return model


def test_the_losses_are_those_of_the_uncached_run():
    cached, uncached = (make_model(metrics=["accuracy"], run_eagerly=False) for _ in range(2))
    cache = FeatureCache(cached)
    assert cache.upto == "pool"
    assert cache.features(X, verbose=0).std() > 0.1  # Equal losses of dead features prove nothing.
    arguments = {"epochs": 3, "shuffle": False, "validation_data": (X[:30], Y[:30]), "verbose": 0}
    got = cache.fit(X, Y, **arguments).history
    expected = uncached.fit(X, Y, **arguments).history
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=2e-6, err_msg=name)
    assert expected["loss"][-1] < expected["loss"][0]
    # Weights and optimizer are those of the uncached run too.
    assert int(cached.optimizer.iterations) == int(uncached.optimizer.iterations) == 9
    for one, other in zip(cached.get_weights(), uncached.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_nested_trunk_is_cut_like_a_flat_one():
    nested, flat = (FeatureCache(make_model(nested)) for nested in (True, False))
    assert nested.upto == flat.upto
    got, expected = (cache.features(X, verbose=0) for cache in (nested, flat))
    np.testing.assert_array_equal(got, expected)


def test_shuffled_epochs_see_the_rows_in_the_order_of_the_uncached_run():
    losses = []
    for use_cache in (True, False):
        model = make_model()
        fit = FeatureCache(model).fit if use_cache else model.fit
        keras.utils.set_random_seed(7)
        losses.append(fit(X, Y, epochs=3, batch_size=16, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=2e-6)


def test_the_trunk_runs_once_and_again_only_when_a_weight_of_it_has_changed():
    model = make_model()
    cache, calls = FeatureCache(model), []
    predict = cache.prefix.predict
    cache.prefix.predict = lambda *args, **kwargs: calls.append(1) or predict(*args, **kwargs)
    first = cache.features(X, verbose=0)
    cache.fit(X, Y, epochs=2, verbose=0)
    cache.fit(X.copy(), Y, epochs=1, verbose=0)
    assert len(calls) == 1
    kernel = model.get_layer("dense_0").kernel
    kernel.assign(kernel * 1.5)
    second = cache.features(X, verbose=0)
    assert len(calls) == 2
    assert not np.allclose(first, second)
    np.testing.assert_allclose(second, predict(X, verbose=0), rtol=1e-6)
    cache.features(X + 1, verbose=0)
    assert len(calls) == 3


def test_features_on_disk_are_found_again_and_a_pass_cut_off_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("kerastools.transfer._features.store._CHUNK", 1)
    expected = FeatureCache(make_model()).features(X, verbose=0)
    rows_seen = []

    def watched(fail_at=None):
        cache = FeatureCache(make_model(), directory=tmp_path)
        predict = cache.prefix.predict

        def observe(x, **kwargs):
            rows_seen.append(len(x))
            if fail_at is not None and sum(rows_seen) > fail_at:
                raise KeyboardInterrupt
            return predict(x, **kwargs)

        cache.prefix.predict = observe
        return cache

    with pytest.raises(KeyboardInterrupt):
        watched(fail_at=64).features(X, 16, verbose=0)
    assert rows_seen == [16] * 5
    rows_seen.clear()
    features = watched().features(X, 16, verbose=0)
    assert rows_seen == [16]
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    cache = watched()
    model = cache.model
    cache.fit(X, Y, sample_weight=np.ones(80), epochs=2, batch_size=16, verbose=0)
    assert rows_seen == [16]
    assert int(model.optimizer.iterations) == 10


def test_a_file_trains_as_memory_does(tmp_path):
    losses = []
    for directory in (None, tmp_path):
        cache = FeatureCache(make_model(), directory=directory)
        losses.append(cache.fit(X, Y, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_array_equal(*losses)


class Rows(keras.utils.PyDataset):
    def __init__(self, shuffled):
        super().__init__()
        self.shuffled = shuffled

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rows = RNG.permutation(80)[:16] if self.shuffled else slice(index * 16, index * 16 + 16)
        return X[rows], Y[rows], np.full(16, 0.5)


def test_a_dataset_trains_as_without_a_cache():
    expected = make_model().fit(Rows(False), epochs=2, shuffle=False, verbose=0).history
    got = FeatureCache(make_model()).fit(Rows(False), epochs=2, verbose=0).history
    np.testing.assert_allclose(got["loss"], expected["loss"], rtol=2e-6)
    with pytest.raises(ValueError, match=r"same rows in the same order.*shuffles or augments"):
        FeatureCache(make_model()).fit(Rows(True), verbose=0)


class AddsLoss(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


class Counts(keras.layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), trainable=False)

    def call(self, x, training=False):
        if training:
            self.count.assign(self.count + 1)
        return x


class Doubles(keras.layers.Layer):
    def call(self, x, training=False):
        return 2 * x if training else x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: keras.layers.Dense(4, name="d"), '"d" trains. Set trainable=False'),
        (lambda: keras.layers.BatchNormalization(center=False, scale=False), "not frozen and nor"),
        (
            lambda: keras.layers.Dropout(0.5, name="d"),
            '"d" of type Dropout is random in every step',
        ),
        (lambda: ours.Dropout(0.5), "is random in every step"),
        (lambda: keras.layers.GaussianNoise(0.1), "is random in every step"),
        (lambda: keras.layers.Dense(4, activity_regularizer="l2", trainable=False), "adds to the"),
        (lambda: AddsLoss(), "adds to the loss .add_loss."),
        (lambda: Counts(), "changes the state '.*count"),
        (lambda: Doubles(), "differ between training=True"),
    ],
)
def test_what_would_be_wrong_is_refused_with_the_reason(layer, message):
    body = [layer(), keras.layers.Dense(4, trainable=False, name="frozen")]
    model = keras.Sequential([keras.Input((4,)), *body, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=f"cannot cache the features.*{message}.*model.fit"):
        FeatureCache(model, "frozen").fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    # With nothing said, the cut is below it, if anything is there.
    with pytest.raises(ValueError, match=message):
        FeatureCache(model).fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)


def test_random_augmentation_before_the_trunk_is_refused():
    frozen = keras.layers.Conv2D(3, 3, trainable=False)
    body = [keras.layers.RandomFlip(name="flip"), frozen, keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *body, keras.layers.Dense(1)])
    with pytest.raises(ValueError, match='"flip" of type RandomFlip is random in every step'):
        FeatureCache(model)


def test_a_trunk_unfrozen_meanwhile_is_refused():
    model = make_model()
    cache = FeatureCache(model)
    cache.fit(X, Y, verbose=0)
    model.get_layer("dense_1").trainable = True
    with pytest.raises(ValueError, match='"dense_1" trains'):
        cache.fit(X, Y, verbose=0)


def test_wrong_arguments_are_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"Received 'nothing', which is not among.*add_1, pool"):
        FeatureCache(model, "nothing")
    with pytest.raises(ValueError, match="'dense_0', past which other tensors go"):
        FeatureCache(model, "dense_0")
    with pytest.raises(ValueError, match="at least one row"):
        FeatureCache(model).features(X[:0])
    loose = keras.Model(model.inputs, model.outputs)
    with pytest.raises(ValueError, match="needs a compiled model"):
        FeatureCache(loose).fit(X, Y)
    model.trainable = False
    with pytest.raises(ValueError, match="they are frozen"):
        FeatureCache(model, "pool").fit(X, Y)
