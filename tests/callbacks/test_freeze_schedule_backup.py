"""A run with `FreezeSchedule` that is killed and started again, to the bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kerastools import optimizers
from kerastools.callbacks import FreezeSchedule, Phase, Plateau

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(48, 2)).astype("float32")
EAGERLY = keras.backend.backend() == "tensorflow"


class Killed(BaseException):
    pass


class KillAt(keras.callbacks.Callback):
    """Ends training in the middle of an epoch, as if the process had been killed."""

    def __init__(self, epoch, kill):
        super().__init__()
        self.at, self.kill = epoch, kill

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.at, 1):
            self.kill()


def raise_killed():
    raise Killed


def make_model(make_optimizer=lambda: keras.optimizers.Adam(0.01), **compile_arguments):
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Dense(6, "tanh", name=name) for name in "ab"]
    layers += [keras.layers.BatchNormalization(name="norm"), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2, name="head")])
    model.compile(make_optimizer(), "mse", **compile_arguments)
    return model


def run(model, folder, callbacks=(), phases=None, policy="inference", data=None, losses=()):
    phases = phases or [
        Phase("head", epochs=1),
        Phase(["head", "norm|b"], steps=8, lr_multiplier=0.5, layer_decay=0.5),
        Phase("a|b"),
    ]
    schedule = FreezeSchedule(phases, policy, data, directory=folder)
    callbacks = [*losses, schedule, *callbacks]
    model.fit(X, Y, epochs=4, batch_size=16, verbose=0, callbacks=callbacks)
    return schedule


def assert_equal_models(one, other):
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    for a, b in zip(one.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


def test_a_run_killed_in_phase_2_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = make_model()
    uninterrupted = run(whole, tmp_path / "whole")
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]);"
        "import test_freeze_schedule_backup as t;"
        "t.run(t.make_model(), sys.argv[2],"
        "[t.KillAt(2, lambda: os.kill(os.getpid(), signal.SIGKILL))])"
    )
    command = [sys.executable, "-c", code, Path(__file__).parent, tmp_path / "killed"]
    environment = os.environ | {"KERAS_BACKEND": keras.backend.backend()}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert (tmp_path / "killed" / "freeze_schedule.npz").exists()

    again = make_model()
    resumed = run(again, tmp_path / "killed")
    assert again.history.epoch == [2, 3]
    assert_equal_models(whole, again)
    assert resumed.history == uninterrupted.history
    assert [t.phase for t in resumed.history] == [0, 1, 2]
    assert not (tmp_path / "killed" / "freeze_schedule.npz").exists()


DECAY = keras.optimizers.schedules.ExponentialDecay(0.05, 4, 0.9)


def test_whatever_optimizer_schedule_and_statistics_keep_goes_on(tmp_path):
    def make_optimizer():
        return optimizers.SGD(DECAY, momentum=0.9, nesterov="exact")

    models = []
    for kill in (False, True):
        folder = tmp_path / str(kill)
        arguments = {"policy": "recalibrate", "data": X}
        model = make_model(make_optimizer, run_eagerly=EAGERLY)
        if kill:
            with pytest.raises(Killed):
                run(model, folder, [KillAt(3, raise_killed)], **arguments)
            model = make_model(make_optimizer, run_eagerly=EAGERLY)
        run(model, folder, **arguments)
        models.append(model)
    assert_equal_models(*models)
    assert models[1].history.epoch == [3]
    assert models[1].fit(X, Y, verbose=0).epoch == [0]  # The next run begins at its beginning.


def test_the_best_state_of_a_phase_outlives_the_process(tmp_path):
    class Losses(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = [1, 2, 2, 1][epoch]

    plateau = Plateau("val_loss", patience=2, restore_best=True)
    phases = [Phase("b|head", until=plateau), Phase("head")]
    models = []
    for kill in (False, True):
        model = make_model(run_eagerly=EAGERLY)
        arguments = {"phases": phases, "losses": [Losses()]}
        if kill:
            with pytest.raises(Killed):
                run(model, tmp_path, [KillAt(1, raise_killed)], **arguments)
            model = make_model(run_eagerly=EAGERLY)
        run(model, tmp_path, **arguments)
        models.append(model)
    assert_equal_models(*models)


def test_a_backup_of_another_run_is_refused(tmp_path):
    with pytest.raises(Killed):
        run(make_model(run_eagerly=EAGERLY), tmp_path, [KillAt(1, raise_killed)])
    with pytest.raises(ValueError, match="written with another schedule"):
        run(make_model(run_eagerly=EAGERLY), tmp_path, phases=[Phase("all")])
    other = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, name="b")])
    other.add(keras.layers.BatchNormalization(name="norm"))
    other.add(keras.layers.Dense(2, name="head"))
    other.compile("adam", "mse", run_eagerly=EAGERLY)
    with pytest.raises(ValueError, match="written with another model"):
        run(other, tmp_path)
