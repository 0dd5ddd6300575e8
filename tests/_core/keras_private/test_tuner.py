"""These fail when keras-tuner moves one of the hooks that the search stands on."""

import json
from pathlib import Path

import keras
import pytest

from kerastools._core.keras_private import tuner as hooks

keras_tuner = pytest.importorskip("keras_tuner")
pytestmark = [
    pytest.mark.tensorflow,  # keras-tuner's by nature.
    pytest.mark.filterwarnings("ignore:currentThread|getName:DeprecationWarning"),
]


class Tuner(keras_tuner.RandomSearch):
    def run_trial(self, trial, **fit):
        return fit["score"]


@pytest.fixture
def tuner(tmp_path):
    return Tuner(
        lambda hp: {"units": hp.Int("units", 1, 4)},
        keras_tuner.Objective("score", "max"),
        directory=tmp_path,
        project_name="name",
        overwrite=True,
        max_trials=2,
    )


def test_an_oracle_knows_its_project_and_shows_what_begins_and_ends(tuner, tmp_path):
    oracle, shown = tuner.oracle, []
    directory, name = hooks.project_of(oracle)
    assert (Path(directory), name) == (tmp_path / "name", "name")
    trial = oracle.create_trial("tuner")
    for display in ("on_trial_begin", "on_trial_end"):
        setattr(oracle._display, display, shown.append)
    hooks.show_begin(oracle, trial)
    hooks.show_end(oracle, trial, saved=trial)
    assert shown == [trial, trial]
    saved = json.loads((tmp_path / "name" / "trial_0" / "trial.json").read_text())
    assert saved["trial_id"] == "0"


def test_an_oracle_writes_its_files_as_told(tuner):
    written = {}
    hooks.write_state_by(tuner.oracle, lambda path, state: written.setdefault(path, state))
    tuner.oracle.create_trial("tuner")
    tuner.oracle.save()
    assert {Path(path).name for path in written} == {"trial.json", "oracle.json"}


def test_a_trial_runs_and_its_result_is_reported(tuner):
    tuner.oracle.create_trial(tuner.tuner_id)
    trial = tuner.oracle.trials["0"]
    hooks.run_trial(tuner, trial, score=0.5)
    assert trial.metrics.get_best_value("score") == 0.5
    assert hooks.build_model(tuner, keras_tuner.HyperParameters()) == {"units": 1}
    assert not hooks.is_worker(tuner)
    assert Path(hooks.state_file(tuner)).name == "tuner0.json"


def test_callbacks_are_copied_and_write_apart(tuner, tmp_path):
    board = keras.callbacks.TensorBoard(str(tmp_path / "logs"))
    (copied,) = hooks.copied_callbacks(tuner, [board])
    assert copied is not board
    trial = tuner.oracle.create_trial("tuner")
    hooks.log_apart(tuner, [copied], trial, 1)
    assert Path(copied.log_dir) == tmp_path / "logs" / trial.trial_id / "execution1"
