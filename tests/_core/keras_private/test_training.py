"""Where `fit` begins and what it calls: fails when Keras moves either."""

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.data_adapters import get_data_adapter
from kerastools._core.keras_private.training import (
    batch_moments,
    begin_at_epoch,
    data_epoch,
    is_detached,
    is_inside_fit,
    set_data_epoch,
    steps_until_save,
    symbolic_build,
)


def small_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_symbolic_build_creates_all_variables_and_changes_none():
    model = small_model()
    kernel = np.array(model.layers[0].kernel)
    symbolic_build(model, (np.ones((4, 2)), np.ones((4, 1))))
    assert model.optimizer.built
    assert [v.path for v in model.metrics_variables] == ["loss/total", "loss/count"]
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)
    assert float(model.metrics_variables[1]) == 0


@pytest.mark.parametrize("kind", ["ModelCheckpoint", "BackupAndRestore"])
def test_steps_until_a_callback_saves(kind, tmp_path):
    callback = getattr(keras.callbacks, kind)(str(tmp_path / "a.weights.h5"), save_freq=5)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(steps_until_save(callback))

    callbacks = [callback, Watch()]
    callback._save_model = callback._save_backup = lambda *args, **kwargs: None
    small_model().fit(
        np.ones((7, 2)), np.ones((7, 1)), batch_size=1, verbose=0, callbacks=callbacks
    )
    assert seen == [4, 3, 2, 1, 5, 4, 3]
    assert steps_until_save(keras.callbacks.ModelCheckpoint("a.keras")) is None


def test_fit_begins_at_the_epoch_that_a_callback_says():
    class Skip(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begin_at_epoch(self.model, 3)

    history = small_model().fit(
        np.ones((4, 2)), np.ones((4, 1)), epochs=5, callbacks=[Skip()], verbose=0
    )
    assert history.epoch == [3, 4]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX only")
def test_jax_holds_the_state_within_an_epoch():
    model = small_model()
    kernel = model.layers[0].kernel
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(is_detached(kernel))
            self.model.jax_state_sync()
            seen.append(is_detached(kernel))

    model.fit(np.ones((4, 2)), np.ones((4, 1)), callbacks=[Look()], verbose=0)
    assert seen == [True, False]
    assert not is_detached(kernel)


def test_the_validation_of_fit_is_known_from_an_evaluation_of_the_user():
    told = []

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def evaluate(self, *args, **kwargs):
            told.append(is_inside_fit(kwargs))
            return super().evaluate(*args, **kwargs)

    model, data = Model(), (np.ones((4, 2)), np.ones((4, 1)))
    model.compile("sgd", "mse")
    model.fit(*data, validation_data=data, verbose=0)
    model.evaluate(*data, verbose=0)
    assert told == [True, False]


class Rows(keras.callbacks.Callback):
    """Notes the epoch of the data, sets it at first if asked to, and stops when told."""

    def __init__(self, begin=None):
        super().__init__()
        self.begin, self.epochs = begin, []

    def on_train_begin(self, logs=None):
        if self.begin is not None:
            begin_at_epoch(self.model, 2)
            set_data_epoch(self.begin)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(data_epoch())


class Blocks(keras.utils.PyDataset):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __len__(self):
        return 7

    def __getitem__(self, i):
        if not self.seen or self.seen[-1] != i:  # Keras looks at the first twice.
            self.seen.append(i)
        return np.ones((1, 2), "float32"), np.ones((1, 1), "float32")


def test_data_go_on_in_the_epoch_that_they_are_set_to():
    seen, whole = [], Rows()
    small_model().fit(Blocks(seen), epochs=4, verbose=0, callbacks=[whole], shuffle=True)
    assert data_epoch() is None  # No fit is running.
    if not hasattr(get_data_adapter(Blocks([])), "_epoch"):
        assert whole.epochs == [None] * 4  # Up to Keras 3.15.
        return
    assert np.diff(whole.epochs).tolist() == [1, 1, 1]
    again, resumed = [], Rows(begin=whole.epochs[1])
    small_model().fit(Blocks(again), epochs=4, verbose=0, callbacks=[resumed], shuffle=True)
    assert resumed.epochs == whole.epochs[2:]
    assert again[-14:] == seen[-14:]
    assert seen[-14:-7] != seen[-7:]


def test_moments_of_a_batch_heed_the_mask():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 2, 3))
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
    mask = np.array([[True, True], [True, False], [True, True], [False, True]])
    moments = batch_moments(
        layer, keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(mask)
    )
    rows = x[mask].astype("float64")
    for found, expected in zip(moments, (rows.mean(0), rows.var(0)), strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5)
