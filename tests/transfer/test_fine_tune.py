"""`fine_tune`: a head on cached features, then gradual unfreezing, in one call."""

import keras
import numpy as np
import pytest

from kerastools.callbacks import FreezeSchedule, Phase, Plateau
from kerastools.transfer import fine_tune
from kerastools.transfer._fine_tune import _default
from tests import zoo

EAGERLY = keras.backend.backend() == "tensorflow"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = (X.mean(1) > 0).astype("int64")


def backbone(dropout=0.0):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,))
    if dropout:
        x = keras.layers.Dropout(dropout, seed=0, name="drop")(x)
    for i in range(2):
        x = keras.layers.Dense(4, name=f"dense_{i}")(x)
        x = keras.layers.BatchNormalization(name=f"norm_{i}")(x)
        x = keras.layers.ReLU(name=f"relu_{i}")(x)
    return keras.Model(inputs, x, name="backbone")


def with_head(dropout=0.0):
    """Compiled, so that where nothing depends on the compiled step TensorFlow need not trace it."""
    trunk = backbone(dropout)
    outputs = keras.layers.Dense(2, "softmax", name="new_head")(trunk.output)
    model = keras.Model(trunk.input, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=EAGERLY)
    return model


def test_head_first_and_then_the_layers_below_it():
    fit = {"validation_data": (X, Y), "verbose": 0}
    tuned = fine_tune(backbone(), X, Y, epochs=2, head_epochs=3, **fit)
    assert tuned.uncached is None
    assert tuned.history.epoch == [0, 1, 2, 3, 4]
    assert {len(values) for values in tuned.history.history.values()} == {5}
    assert "val_accuracy" in tuned.history.history
    assert [(t.epoch, t.trained) for t in tuned.schedule.history] == [
        (0, ("new_head",)),
        (3, ("dense_1", "norm_1", "new_head")),
        (4, ("dense_0", "norm_0", "dense_1", "norm_1", "new_head")),
    ]
    assert [phase.fresh_slots for phase in tuned.schedule.phases] == [False, True, False]
    # 2 steps an epoch, all with one optimizer, at whose rate it also ends.
    assert int(tuned.model.optimizer.iterations) == 10
    assert float(tuned.model.optimizer.learning_rate) == pytest.approx(1e-3)
    assert "new_head, dense_1, norm_1" in str(tuned)
    assert tuned.to_dict()["schedule"]["phases"][0]["epochs"] == 3


@pytest.mark.parametrize(
    ("num_layers", "groups", "lowest"), [(2, 2, 0.81), (8, 4, 0.43), (60, 4, 0.01)]
)
def test_rates_fall_by_a_tenth_per_layer_and_to_a_hundredth_at_most(num_layers, groups, lowest):
    layers = [keras.layers.Dense(1) for _ in range(num_layers + 1)]
    model = keras.Sequential([keras.Input((1,)), *layers])
    last = _default(model, epochs=9, head_epochs=1).phases[-1]
    assert len(last.layers) == groups + 1
    assert last.layer_decay**groups == pytest.approx(lowest, rel=0.01)


@pytest.mark.tensorflow  # The cache is tested on both in test_feature_cache.py.
def test_the_cache_changes_no_number():
    runs = []
    for dropout in (0.0, 1e-9):  # At this rate dropout drops nothing, but cannot be cached.
        model = with_head(dropout)
        tuned = fine_tune(model, X, Y, epochs=1, head_epochs=2, shuffle=False, verbose=0)
        assert (tuned.uncached is None) == (dropout == 0)
        runs.append(tuned)
    assert '"drop" of type Dropout is random in every step' in str(runs[1])
    np.testing.assert_allclose(*(run.history.history["loss"] for run in runs), rtol=1e-5)


def test_a_schedule_that_was_edited_is_followed():
    model = with_head()
    plateau = Plateau("loss", patience=1, min_delta=1e9)
    schedule = FreezeSchedule([Phase("new_head", until=plateau), Phase("norm_1", lr_multiplier=0)])
    tuned = fine_tune(model, X, Y, epochs=2, head_epochs=2, schedule=schedule, verbose=0)
    assert tuned.schedule is schedule
    assert [t.epoch for t in schedule.history] == [0, 2]
    assert len(tuned.history.epoch) == 4


def test_a_compiled_model_is_taken_as_it_is():
    model = keras.Sequential([backbone(), keras.layers.Dense(1, name="h")])
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    tuned = fine_tune(model, X, Y, epochs=0, head_epochs=1, verbose=0)
    assert tuned.model is model
    assert tuned.schedule.history[0].trained == ("h",)


@pytest.mark.parametrize(
    ("y", "units", "loss"),
    [
        (np.array([0, 2, 1, 2]), 3, "sparse_categorical_crossentropy"),
        (np.array([[0], [1], [1], [0]]), 2, "sparse_categorical_crossentropy"),
        (np.eye(4), 4, "categorical_crossentropy"),
        (np.array([0.1, 2.0, 1.5, 2.5]), 1, "mean_squared_error"),
        (np.ones((4, 2)), 2, "mean_squared_error"),
    ],
)
def test_the_head_fits_the_targets(y, units, loss):
    from kerastools.transfer._fine_tune import _with_head

    maps = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3)])
    for trunk in (backbone(), maps):
        model = _with_head(trunk, y, 1e-3)
        assert model.output_shape == (None, units)
        assert model.loss == loss


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"head_epochs >= 1.*=0"):
        fine_tune(backbone(), X, Y, head_epochs=0)
    with pytest.raises(ValueError, match=r"epochs >= 0.*=-1"):
        fine_tune(backbone(), X, Y, epochs=-1)
    with pytest.raises(ValueError, match=r"needs classes >= 0"):
        fine_tune(backbone(), X, Y - 1)
    with pytest.raises(ValueError, match=r"needs y to be classes or numbers.*\(4, 2, 1\)"):
        fine_tune(backbone(), X, np.ones((4, 2, 1)))
    with pytest.raises(ValueError, match=r"needs y to know the number of classes"):
        fine_tune(backbone(), X)
    with pytest.raises(TypeError, match=r"needs a keras.Model"):
        fine_tune("MobileNetV2", X, Y)


@pytest.mark.parametrize("kind", ["shuffled_dataset", "endless_dataset", "generator"])
def test_data_that_cannot_be_cached_train_the_head_without_a_cache(kind):
    specimen = zoo.specimen("plain", kind)
    options = {"verbose": 0, "shuffle": False} | specimen.options
    tuned = fine_tune(specimen.model, specimen.x, None, 0, 1, **options)
    assert "FeatureCache" in tuned.uncached
    assert len(tuned.history.epoch) == 1
