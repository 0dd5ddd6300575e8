from pathlib import Path

import keras_tuner
import optuna
import pytest
from keras_tuner.engine.base_tuner import BaseTuner

from kerastools.search import OptunaOracle, betas, dropout

pytestmark = pytest.mark.tensorflow  # keras-tuner's; no tensor of the backend is touched.


class Pretend(BaseTuner):
    """Scores a trial by a formula instead of training a model."""

    def run_trial(self, trial, verbose=0):
        return {"val_loss": self.hypermodel.build(trial.hyperparameters)}


def build(hp):
    """Best, with 0, at kind b, x = 0.3."""
    x = hp.Float("x", -1.0, 1.0)
    if hp.Choice("kind", ["a", "b"]) == "a":
        with hp.conditional_scope("kind", ["a"]):
            return 1.0 + (x - 0.3) ** 2 + hp.Int("only_a", 1, 3)
    with hp.conditional_scope("kind", ["b"]):
        return (x - 0.3) ** 2 + 0.1 * hp.Boolean("only_b")


def tuner_in(folder, builder=build, **arguments):
    oracle = OptunaOracle("val_loss", **{"max_trials": 12, "seed": 3, **arguments})
    return Pretend(oracle, builder, directory=folder, project_name="p")


def values(tuner):
    return {name: t.hyperparameters.values for name, t in tuner.oracle.trials.items()}


def ask(oracle, number):
    return [oracle.create_trial(f"tuner{i}") for i in range(number)]


def test_a_search_keeps_within_its_conditional_scopes_and_its_budget(tmp_path):
    tuner = tuner_in(tmp_path)
    tuner.search(verbose=0)
    assert len(tuner.oracle.trials) == len(tuner.oracle.end_order) == 12
    for trial in tuner.oracle.trials.values():
        chosen = trial.hyperparameters.values
        assert ("only_a" in chosen) == (chosen["kind"] == "a")
        assert ("only_b" in chosen) == (chosen["kind"] == "b")
        copy = keras_tuner.HyperParameters()
        copy.values = dict(chosen)
        assert trial.score == pytest.approx(build(copy))
    best = tuner.oracle.get_best_trials(1)[0]
    assert best.score == min(t.score for t in tuner.oracle.trials.values())


def test_what_is_recorded_is_what_was_trained_where_a_name_stands_in_two_scopes(tmp_path):
    used = []

    def two_scopes(hp):
        kind = hp.Choice("opt", ["sgd", "adam"])
        low, high = (1e-3, 1.0) if kind == "sgd" else (1e-5, 1e-2)
        with hp.conditional_scope("opt", [kind]):
            used.append({"opt": kind, "lr": hp.Float("lr", low, high, sampling="log")})
        return used[-1]["lr"]

    tuner = tuner_in(tmp_path, two_scopes)
    del used[:]  # Those of the space.
    tuner.search(verbose=0)
    assert list(values(tuner).values()) == used
    assert {v["opt"] for v in used} == {"sgd", "adam"}
    assert list(values(tuner_in(tmp_path, two_scopes)).values()) == used  # Read again.


def test_every_kind_of_hyperparameter_stays_on_its_grid(tmp_path):
    def all_kinds(hp):
        hp.Fixed("fixed", 7)
        return (
            hp.Float("tenths", 0.1, 0.5, step=0.1) * 0
            + hp.Int("odd", 1, 9, step=2) * 0
            + hp.Int("doubled", 2, 64, step=2, sampling="log") * 0
            + hp.Int("any", 1, 1000, sampling="log") * 0
            + hp.Float("decade", 1e-3, 10, sampling="log") * 0
            + hp.Float("to_one", 0.1, 0.9, sampling="reverse_log")
            + hp.Choice("ordered", [1, 10, 100]) * 0
            + dropout(hp) * 0
            + sum(betas(hp)) * 0
        )

    tuner = tuner_in(tmp_path, all_kinds)
    tuner.search(verbose=0)
    seen = {name: {v[name] for v in values(tuner).values()} for name in values(tuner)["00"]}
    assert seen["fixed"] == {7}
    assert {round(v, 6) for v in seen["tenths"]} <= {0.1, 0.2, 0.3, 0.4, 0.5}
    assert seen["odd"] <= {1, 3, 5, 7, 9}
    assert seen["doubled"] <= {2, 4, 8, 16, 32, 64}
    assert seen["ordered"] <= {1, 10, 100}
    assert all(isinstance(v, int) and 1 <= v <= 1000 for v in seen["any"])
    assert all(1e-3 <= v <= 10 for v in seen["decade"])
    assert all(0.1 <= v <= 0.9 for v in seen["to_one"])
    assert all(len(seen[name]) > 2 for name in ("tenths", "odd", "doubled", "any", "decade"))


def test_a_population_is_asked_for_configurations_that_differ(tmp_path):
    tuner = tuner_in(tmp_path, max_trials=30)
    for _ in range(11):  # So that the estimator is at work, not chance.
        trial = tuner.oracle.create_trial("one")
        tuner._try_run_and_update_trial(trial)
        tuner.oracle.end_trial(trial)
    population = [t.hyperparameters.values["x"] for t in ask(tuner.oracle, 8)]
    gaps = [b - a for a, b in zip(sorted(population), sorted(population)[1:], strict=False)]
    assert min(gaps) > 1e-3
    assert max(population) - min(population) > 0.1


@pytest.mark.parametrize("direction", ["min", "max"])
def test_it_goes_where_the_objective_is_better(tmp_path, direction):
    sign = 1 if direction == "min" else -1
    oracle = OptunaOracle(keras_tuner.Objective("val_loss", direction), max_trials=40, seed=0)
    tuner = Pretend(oracle, lambda hp: sign * (hp.Float("x", -1.0, 1.0) - 0.3) ** 2, tmp_path)
    tuner.search(verbose=0)
    late = [oracle.trials[name].hyperparameters["x"] for name in oracle.end_order[20:]]
    assert sum(abs(x - 0.3) < 0.3 for x in late) > 12  # By chance 6 ± 2.


def test_the_seed_repeats_a_search_and_neighbours_share_nothing(tmp_path):
    first, again, other, zero = (
        tuner_in(tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 3, 4, 0))
    )
    for tuner in (first, again, other, zero):
        tuner.search(verbose=0)
    assert values(first) == values(again)
    searches = [{v["x"] for v in values(t).values()} for t in (first, other, zero)]
    assert sum(map(len, searches)) == len(set.union(*searches)) == 36


def test_a_stopped_search_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    whole = tuner_in(tmp_path / "whole")
    whole.search(verbose=0)
    runs = []

    def stops_once(hp):
        runs.append(hp.values.get("x"))
        if len(runs) == 8:
            raise KeyboardInterrupt
        return build(hp)

    stopped = tuner_in(tmp_path / "stopped", stops_once)
    with pytest.raises(KeyboardInterrupt):
        stopped.search(verbose=0)
    assert len(stopped.oracle.end_order) < 8
    resumed = tuner_in(tmp_path / "stopped")
    assert resumed.oracle.end_order == stopped.oracle.end_order
    resumed.search(verbose=0)
    assert {n: v for n, v in values(resumed).items() if int(n) < 5} == {
        n: v for n, v in values(whole).items() if int(n) < 5
    }
    assert len(resumed.oracle.end_order) == 12
    assert {t.status for t in resumed.oracle.trials.values()} == {"COMPLETED"}


def test_a_search_in_a_torn_state_goes_on(tmp_path):
    tuner = tuner_in(tmp_path)
    trial = tuner.oracle.create_trial("one")
    tuner.save()
    file = tmp_path / "p" / "optuna.journal"
    file.write_bytes(file.read_bytes() + b'{"op_code": 5, "wor')  # Cut off in the middle.
    Path(f"{file}.lock").touch()  # And killed inside the lock.
    (tmp_path / "p" / "oracle.json").write_text('{"trials')
    resumed = tuner_in(tmp_path)
    resumed.search(verbose=0)
    assert len(resumed.oracle.end_order) == 12
    assert values(resumed)[trial.trial_id]["x"] == trial.hyperparameters["x"]


def test_a_trial_that_kills_its_process_each_time_is_given_up(tmp_path):
    for _ in range(4):
        trial = tuner_in(tmp_path).oracle.create_trial("one")
        assert trial.trial_id == "00"
    oracle = tuner_in(tmp_path).oracle
    assert oracle.create_trial("one").trial_id != "00"
    assert oracle.trials["00"].status == "FAILED"
    assert oracle.trials["00"].message == "every process that ran it died"


def test_a_trial_that_is_interrupted_again_and_again_is_not_given_up(tmp_path):
    oracle = tuner_in(tmp_path).oracle
    for _ in range(6):
        assert oracle.create_trial("one").trial_id == "00"
        oracle.release()


def test_what_a_builder_asks_for_late_is_searched_from_the_next_trial_on(tmp_path):
    oracle = tuner_in(tmp_path).oracle  # Its space begins with kind a.
    asked = []
    for trial in (oracle.create_trial(f"tuner{i}") for i in range(12)):
        if trial.hyperparameters["kind"] == "b":
            build(trial.hyperparameters)
            asked.append(trial.hyperparameters["only_b"])
    assert asked[0] is False  # The default.
    assert True in asked
    resumed = tuner_in(tmp_path).oracle
    resumed.get_state()
    assert any(h.name == "only_b" for h in resumed.get_space().space)


def test_a_space_is_searched_through_without_trying_anything_twice(tmp_path):
    tuner = tuner_in(tmp_path, lambda hp: float(hp.Int("n", 1, 5)), max_trials=20)
    tuner.search(verbose=0)
    tried = [v["n"] for v in values(tuner).values()]
    assert sorted(tried) == sorted(set(tried))
    assert len(tried) >= 4


def test_failures_are_counted_once_and_are_no_end(tmp_path):
    def fails(hp):
        if hp.Float("x", 0.0, 1.0) > 0.5:
            raise ValueError("too large")
        return float("nan") if hp.get("x") > 0.4 else hp.get("x")

    tuner = tuner_in(tmp_path, fails, max_trials=16, max_consecutive_failed_trials=16)
    tuner.search(verbose=0)
    for trial in tuner.oracle.trials.values():
        x = trial.hyperparameters["x"]
        assert trial.status == ("FAILED" if x > 0.4 else "COMPLETED")
    assert len(tuner.oracle.end_order) == 16
    resumed = tuner_in(tmp_path, max_trials=16)
    assert {n: t.status for n, t in resumed.oracle.trials.items()} == {
        n: t.status for n, t in tuner.oracle.trials.items()
    }


def test_failures_are_tried_again_and_end_the_search_as_in_keras_tuner(tmp_path):
    runs = []

    class Failing(BaseTuner):
        def run_trial(self, trial):
            runs.append(trial.trial_id)
            raise ValueError("flaky")

    limits = {"max_retries_per_trial": 4, "max_consecutive_failed_trials": 2}
    tuner = Failing(
        OptunaOracle("loss", 8, seed=0, **limits),
        lambda hp: hp.Float("x", 0, 1),
        directory=tmp_path,
    )
    with pytest.raises(RuntimeError, match="consecutive failures exceeded the limit of 2"):
        tuner.search()
    assert [runs.count(name) for name in dict.fromkeys(runs)] == [5, 5]


def test_a_space_that_runs_define_is_searched_through_without_trying_anything_twice(tmp_path):
    class Defining(BaseTuner):
        def run_trial(self, trial, **ignored):
            trial.hyperparameters.Boolean("a"), trial.hyperparameters.Boolean("b")
            return 1.0

    tuner = Defining(OptunaOracle("loss", 8, seed=0), directory=tmp_path)
    tuner.search(verbose=0)
    assert len(tuner.oracle.trials) == 4


def test_another_sampler_is_used(tmp_path):
    grid = {"n": [3, 1, 2]}
    tuner = tuner_in(
        tmp_path,
        lambda hp: float(hp.Int("n", 1, 5)),
        sampler=lambda seed: optuna.samplers.GridSampler(grid, seed=0),
        max_trials=3,
    )
    tuner.search(verbose=0)
    assert {v["n"] for v in values(tuner).values()} == {1, 2, 3}


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seed=-1"):
        OptunaOracle("val_loss", seed=-1)
    with pytest.raises(ValueError, match="sampler='tpe'"):
        OptunaOracle("val_loss", sampler="tpe")
    with pytest.raises(ValueError, match="heartbeat=60"):
        OptunaOracle("val_loss", heartbeat=60)
    with pytest.raises(ValueError, match="needs a storage with heartbeats"):
        tuner_in(tmp_path, storage=optuna.storages.InMemoryStorage()).search()


def test_the_study_of_another_search_is_refused_and_left_alone(tmp_path):
    tuner_in(tmp_path, max_trials=1).search(verbose=0)
    file = tmp_path / "p" / "optuna.journal"
    before = file.read_bytes()
    (tmp_path / "p" / "tuner0.json").unlink()  # As on another machine.
    with pytest.raises(ValueError, match=r"another search.*'x' is .*here .*'max_value': 2"):
        tuner_in(tmp_path, lambda hp: hp.Float("x", -1.0, 2.0)).search(verbose=0)
    oracle = OptunaOracle("val_accuracy")
    with pytest.raises(ValueError, match="with objective"):
        Pretend(oracle, build, directory=tmp_path, project_name="p").search(verbose=0)
    assert file.read_bytes() == before


def test_a_directory_of_keras_tuner_is_refused(tmp_path):
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=1)
    Pretend(oracle, build, directory=tmp_path, project_name="p").save()
    with pytest.raises(ValueError, match="made with another oracle"):
        tuner_in(tmp_path)
