import keras
import numpy as np
import pytest

from kerastools._core.batches import Batches
from kerastools.pretraining._resumable_fit import resumable_fit, seed_of


class CtrlC(keras.callbacks.Callback):
    """Stops in the middle of an epoch, as a person does."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, 1):
            raise KeyboardInterrupt


def model_and_batches(seed=3):
    """A net with everything that has state: batch statistics, random masks, slots."""
    keras.utils.set_random_seed(5)
    layers = [
        keras.layers.Dense(6, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3, seed=2),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(26, 4)).astype("float32"), rng.normal(size=(26, 2)).astype("float32")
    return model, Batches([x, y], 8, seed, lambda arrays, rng: arrays)


def test_an_interrupted_run_goes_on_to_the_bit(tmp_path):
    straight, batches = model_and_batches()
    resumable_fit(straight, batches, 5, verbose=0)
    stopped, batches = model_and_batches()
    with pytest.raises(KeyboardInterrupt):
        resumable_fit(stopped, batches, 5, tmp_path, [CtrlC(3)], verbose=0)
    resumed, batches = model_and_batches()
    resumable_fit(resumed, batches, 5, tmp_path, verbose=0)
    assert resumed.history.history == straight.history.history
    assert resumed.history.epoch == [0, 1, 2, 3, 4]
    for a, b in zip(straight.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)), err_msg=a.path)
    assert int(resumed.optimizer.iterations) == 15


def test_a_finished_run_returns_at_once_and_can_be_lengthened(tmp_path):
    model, batches = model_and_batches()
    resumable_fit(model, batches, 2, tmp_path, verbose=0)
    again, batches = model_and_batches()
    resumable_fit(again, batches, 2, tmp_path, [CtrlC(0)], verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    resumable_fit(again, batches, 3, tmp_path, verbose=0)
    assert len(again.history.history["loss"]) == 3


def test_a_backup_of_another_run_is_refused(tmp_path):
    model, batches = model_and_batches()
    resumable_fit(model, batches, 1, tmp_path, verbose=0)
    other, batches = model_and_batches(seed=4)
    before = other.get_weights()
    with pytest.raises(ValueError, match="belongs to another run"):
        resumable_fit(other, batches, 2, tmp_path, verbose=0)
    for a, b in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_without_a_seed_goes_on_with_the_one_it_drew(tmp_path):
    keras.utils.set_random_seed(1)
    first = seed_of(None, tmp_path / "run")
    assert seed_of(None, tmp_path / "run") == first
    assert seed_of(None, tmp_path / "other") != first
    assert seed_of(None, None) != seed_of(None, None)
    assert seed_of(7, tmp_path / "run") == 7
