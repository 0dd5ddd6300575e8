"""Several real processes on one search, on SQLite and on PostgreSQL; one is killed."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from glob import glob
from pathlib import Path

import numpy as np
import optuna
import pytest
from keras_tuner.engine.base_tuner import BaseTuner

from kerastools.search import OptunaOracle, PopulationTuner, SuccessiveHalving
from kerastools.search._successive_halving import Rungs

pytestmark = pytest.mark.tensorflow  # keras-tuner's; no tensor of the backend is touched.

TRIALS = 8
# Forked, so that they need not import Keras again.
processes = multiprocessing.get_context("fork")


class Pretend(BaseTuner):
    """Scores a trial after a while, and writes down what it ran."""

    def run_trial(self, trial, verbose=0):
        with open(f"{self.directory}/runs", "a") as file:
            file.write(f"{trial.trial_id} {trial.hyperparameters['x']}\n")
        time.sleep(self.seconds)
        return {"val_loss": trial.hyperparameters["x"] ** 2}


def search(storage, folder, seconds):
    oracle = OptunaOracle(
        "val_loss", TRIALS, storage=storage, seed=0, heartbeat=1, grace=3, study_name=folder.name
    )
    folder = folder / str(os.getpid())
    folder.mkdir()
    tuner = Pretend(oracle, lambda hp: hp.Float("x", -1.0, 1.0), directory=folder)
    tuner.seconds = seconds
    tuner.search(verbose=0)
    (folder / "done").write_text(str(len(oracle.end_order)))
    oracle._study.release()


def start(storage, folder, seconds=0.2):
    process = processes.Process(target=search, args=(storage, folder, seconds))
    process.start()
    return process


def runs(folder, process):
    path = folder / str(process.pid) / "runs"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "It did not happen in time."
        time.sleep(0.05)


class Server:
    """A PostgreSQL server in a folder of its own, reached through a socket there."""

    def __init__(self, programs, folder):
        self.programs, self.folder = programs, folder
        # PostgreSQL refuses to run as root.
        self.user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        self.user = self.user if os.geteuid() == 0 else []
        if self.user:
            os.chown(folder, 65534, 65534)
        self.do("initdb", "-D", folder / "data", "-U", "tester", "--auth=trust", "--no-sync")
        self.start()
        self.do("createdb", "-h", folder, "-U", "tester", "search")
        self.url = f"postgresql://tester@/search?host={folder}"

    def start(self):
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        log, data = self.folder / "log", self.folder / "data"
        self.do("pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start")

    def stop(self):
        self.do("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def do(self, program, *arguments):
        command = [*self.user, self.programs / program, *arguments]
        # The server keeps what it inherits open: no pipes.
        with open(self.folder / "commands", "a") as log:
            done = subprocess.run(command, stdout=log, stderr=log, cwd=self.folder)
        assert done.returncode == 0, (self.folder / "commands").read_text()


@pytest.fixture(scope="module")
def server():
    installed = [*glob("/usr/lib/postgresql/*/bin/initdb"), shutil.which("initdb")]
    if not any(installed):
        pytest.skip("no PostgreSQL server was found: apt-get install postgresql")
    # A socket's path may have 107 characters; pytest's folders are for their owner alone.
    folder = Path(tempfile.mkdtemp())
    server = Server(Path(next(filter(None, installed))).resolve().parent, folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/search.db"
    return request.getfixturevalue("server").url


def test_a_killed_process_loses_no_trial_and_none_counts_twice(storage, tmp_path):
    first = start(storage, tmp_path, seconds=60)
    until(lambda: runs(tmp_path, first))
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    (killed,) = runs(tmp_path, first)
    others = [start(storage, tmp_path) for _ in range(2)]
    for other in others:
        other.join(60)
        assert other.exitcode == 0
        assert (tmp_path / str(other.pid) / "done").read_text() == str(TRIALS)
    ran = [run for other in others for run in runs(tmp_path, other)]
    assert len(ran) == len(set(ran)) == TRIALS
    assert killed in ran  # With the same values.
    assert all(runs(tmp_path, other) for other in others)


POPULATION = """
import sys
import keras
import numpy as np
from kerastools.layers import Dropout
from kerastools.optimizers import SGD
from kerastools.search import OptunaOracle, PopulationTuner, dropout, learning_rate

def build(hp):
    hidden = [keras.layers.Dense(4, activation="tanh"), Dropout(dropout(hp))]
    model = keras.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(1)])
    model.compile(SGD(learning_rate(hp)), "mse")
    return model

def search(url, folder, epochs):
    oracle = OptunaOracle(
        "val_loss", 6, storage=url, seed=0, study_name="population", heartbeat=1, grace=3
    )
    tuner = PopulationTuner(build, oracle=oracle, population=3, directory=folder, seed=0)
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    data = {"x": x, "y": x[:, :1], "validation_data": (x, x[:, :1])}
    tuner.search(**data, epochs=epochs, verbose=0)
    oracle._study.release()
    return tuner

if __name__ == "__main__":
    search(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def test_a_population_that_is_killed_on_postgresql_is_run_again_by_another(server, tmp_path):
    server.do("createdb", "-h", server.folder, "-U", "tester", "population")
    url = server.url.replace("/search", "/population")
    (tmp_path / "script.py").write_text(POPULATION)
    command = [sys.executable, tmp_path / "script.py", url, tmp_path / "first", "100000"]
    with subprocess.Popen(command) as first:
        storage = optuna.storages.RDBStorage(url.replace("postgresql", "postgresql+psycopg"))
        until(lambda: "population" in optuna.get_all_study_names(storage))
        study = optuna.load_study(study_name="population", storage=storage)
        until(lambda: [len(t.params) for t in study.trials] == [2, 2, 2])
        first.kill()
    begun = {str(t.number): t.params["learning_rate"] for t in study.trials}
    assert sorted(begun) == ["0", "1", "2"]
    namespace = {"__name__": "population"}
    exec(POPULATION, namespace)
    tuner = namespace["search"](url, tmp_path / "second", 2)
    trials = tuner.oracle.trials
    assert sorted(trials) == sorted(tuner.oracle.end_order) == ["0", "1", "2", "3", "4", "5"]
    assert {t.status for t in trials.values()} == {"COMPLETED"}
    assert all("together" in way for way in list(tuner.how_trained.values())[1:]), tuner.how_trained
    assert {n: trials[n].hyperparameters["learning_rate"] for n in begun} == begun
    storage.engine.dispose()


def test_the_search_goes_on_when_the_database_is_killed_and_restarted(server, tmp_path):
    server.do("createdb", "-h", server.folder, "-U", "tester", "fresh")
    url = server.url.replace("/search", "/fresh")
    workers = [start(url, tmp_path, 0.5) for _ in range(2)]  # Both make its tables.
    until(lambda: all(len(runs(tmp_path, w)) > 1 for w in workers))
    server.stop()
    time.sleep(2)
    server.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
        assert (tmp_path / str(worker.pid) / "done").read_text() == str(TRIALS)
    storage = optuna.storages.RDBStorage(url.replace("postgresql", "postgresql+psycopg"))
    study = optuna.load_study(study_name=tmp_path.name, storage=storage)
    finished = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len({t.user_attrs.get("repeats", t.number) for t in finished}) == len(finished) == TRIALS
    storage.engine.dispose()


def test_a_database_that_cannot_be_reached_is_an_error_before_the_first_trial(tmp_path):
    oracle = OptunaOracle("val_loss", 1, storage=f"sqlite:///{tmp_path}/nowhere/s.db")
    tuner = Pretend(oracle, lambda hp: hp.Float("x", -1.0, 1.0), tmp_path)
    with pytest.raises(ConnectionError, match="unable to open database file"):
        tuner.search(verbose=0)
    oracle.storage = "mysql+pymysql://host/search"
    with pytest.raises(ImportError, match="needs the driver of mysql"):
        tuner.search(verbose=0)


def oracle_in(folder, name, trials=1):
    oracle = OptunaOracle("val_loss", trials, storage=f"sqlite:///{folder}/s.db", study_name="s")
    oracle = Pretend(oracle, lambda hp: hp.Float("x", -1.0, 1.0), folder / name).oracle
    oracle.get_state()  # Opens the study.
    return oracle


def in_another_process(oracle):
    oracle._study._runner = lambda: "another"
    return oracle


def test_a_process_that_ends_by_itself_leaves_its_trial_to_others_at_once(tmp_path):
    first, second = oracle_in(tmp_path, "first"), in_another_process(oracle_in(tmp_path, "second"))
    trial = first.create_trial("one")
    assert second.create_trial("one").status == "IDLE"
    first.release()  # As at the end of the interpreter.
    again = second.create_trial("one")
    assert again.trial_id == trial.trial_id
    assert again.hyperparameters.values == trial.hyperparameters.values


def test_at_a_rung_the_trials_of_all_processes_are_compared(tmp_path):
    first = oracle_in(tmp_path, "first", trials=3)
    second = in_another_process(oracle_in(tmp_path, "second", trials=3))
    rungs = [Rungs(SuccessiveHalving(2), o.objective, o.share) for o in (first, second)]
    good, bad, lost = (
        oracle.create_trial(tuner_id).trial_id
        for oracle, tuner_id in ((first, "one"), (second, "one"), (first, "two"))
    )
    assert rungs[0].arrive(1, 4, {good: 0.1}) == []
    assert rungs[1].arrive(1, 4, {bad: 0.2}) == [bad]
    second._study.study.tell(int(lost), state=optuna.trial.TrialState.FAIL)
    assert rungs[0].arrive(1, 4, {lost: np.nan}) == [lost]
    # One that begins later, on another machine.
    assert second.share(1, {}) == {good: 0.1, bad: 0.2}


def test_a_study_that_others_may_work_on_is_not_overwritten(tmp_path):
    url, folder = f"sqlite:///{tmp_path}/s.db", tmp_path / "project"

    def tuner(**arguments):
        oracle = OptunaOracle("val_loss", 1, storage=url)
        hypermodel = lambda hp: hp.Float("x", -1.0, 1.0)  # noqa: E731
        return PopulationTuner(
            hypermodel, oracle=oracle, directory=tmp_path, project_name="project", **arguments
        )

    first = tuner(overwrite=True)  # Nothing is there yet.
    first.oracle.create_trial("one")
    (folder / "kept").touch()
    with pytest.raises(
        ValueError, match=r"study 'project' .*delete_study.*storage='sqlite://.*db'"
    ):
        tuner(overwrite=True)
    assert (folder / "kept").exists()
    first.oracle.release()
    optuna.delete_study(study_name="project", storage=url)
    tuner(overwrite=True)
    assert not (folder / "kept").exists()


def test_a_search_that_was_left_by_an_exception_holds_no_trial_of_the_next(tmp_path):
    first = oracle_in(tmp_path, "first")
    trial = first.create_trial("one")
    again = oracle_in(tmp_path, "second").create_trial("one")  # The first goes on beating.
    assert again.trial_id == trial.trial_id
    assert again.hyperparameters.values == trial.hyperparameters.values


def test_a_population_that_was_interrupted_is_run_again_at_once(tmp_path, monkeypatch):
    namespace = {"__name__": "population"}
    exec(POPULATION, namespace)
    url, tuners = f"sqlite:///{tmp_path}/s.db", []

    class Interrupted(PopulationTuner):
        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            tuners.append(self)  # As a notebook keeps it.
            raise KeyboardInterrupt

    monkeypatch.setitem(namespace, "PopulationTuner", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        namespace["search"](url, tmp_path / "first", 2)
    storage = optuna.storages.RDBStorage(url)
    trials = optuna.load_study(study_name="population", storage=storage).trials
    states = [trial.state.name for trial in trials]
    assert sorted(states) == ["COMPLETE", "FAIL", "FAIL"]
    monkeypatch.setitem(namespace, "PopulationTuner", PopulationTuner)
    tuner = namespace["search"](url, tmp_path / "second", 2)
    found = tuner.oracle.trials
    assert [t.status for t in found.values()] == ["COMPLETED"] * 6
    assert len(tuner.how_trained) == 5
    assert all("together" in way for way in tuner.how_trained.values()), tuner.how_trained
    for trial in trials:
        assert found[str(trial.number)].hyperparameters.values == trial.user_attrs["drawn"]
    storage.engine.dispose()


@pytest.mark.parametrize("faster", ["first", "second"])
def test_of_a_trial_that_was_taken_for_dead_one_result_counts(tmp_path, faster):
    first, second = oracle_in(tmp_path, "first"), in_another_process(oracle_in(tmp_path, "second"))
    late = first.create_trial("one")
    first._study.study.tell(0, state=optuna.trial.TrialState.FAIL)  # No heartbeat came through.
    again = second.create_trial("one")
    assert again.trial_id == late.trial_id
    results = [(first, late, 1.0), (second, again, 2.0)]
    for oracle, trial, value in results if faster == "first" else results[::-1]:
        oracle.update_trial(trial.trial_id, {"val_loss": value})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    for oracle in (first, second):
        assert oracle.create_trial("one").status == "STOPPED"
        assert [t.score for t in oracle.trials.values()] == [2.0]
