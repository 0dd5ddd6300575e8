import json
import math

import keras_tuner
import numpy as np
import pytest
from keras_tuner.engine.base_tuner import BaseTuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from kerastools.search import OptunaOracle, SearchReport, betas, learning_rate, momentum

pytestmark = pytest.mark.tensorflow  # keras-tuner's; no tensor of the backend is touched.


class Pretend(BaseTuner):
    """Scores a trial by a formula instead of training a model."""

    def run_trial(self, trial, verbose=0):
        score = self.hypermodel.build(trial.hyperparameters)
        if math.isinf(score):
            raise ValueError("the builder gave up")
        return {"val_loss": score}


def build(hp):
    """Depends on the rate most of all."""
    rate = learning_rate(hp, 1e-4, 1e-1)
    loss = math.log10(rate / 1e-2) ** 2
    if hp.Choice("optimizer", ["sgd", "adam"]) == "sgd":
        with hp.conditional_scope("optimizer", ["sgd"]):
            loss += 0.02 * (momentum(hp) - 0.9) ** 2
    else:
        with hp.conditional_scope("optimizer", ["adam"]):
            loss += 0.01 * betas(hp)[0]
    hp.Int("idle", 1, 50)
    return math.inf if rate > 5e-2 else loss


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    oracle = OptunaOracle("val_loss", max_trials=30, seed=1)
    tuner = Pretend(oracle, build, directory=tmp_path_factory.mktemp("report"))
    tuner.search(verbose=0)
    return tuner


@pytest.fixture(scope="module")
def report(tuner):
    return SearchReport.of(tuner)


def test_it_holds_every_trial_and_ranks_them(tuner, report):
    trials = tuner.oracle.trials
    assert len(report.trials) == 30
    assert {t.trial: t.score for t in report.trials} == {n: t.score for n, t in trials.items()}
    failed = [t for t in report.trials if t.score is None]
    assert failed
    assert all(t.message == "ValueError: the builder gave up" for t in failed)
    scores = [t.score for t in report.ranked()]
    assert scores == sorted(scores)
    assert report.best.score == tuner.oracle.get_best_trials(1)[0].score


def test_it_prints_as_a_table_with_momentum_for_its_complement(report):
    lines = str(report).splitlines()
    assert lines[0].startswith("30 trials, ")
    assert f"best val_loss {report.best.score:.4g} in trial {report.best.trial}" in lines[0]
    assert "momentum" in lines[1]
    assert "1 - " not in str(report)
    assert lines[3].split()[0] == report.best.trial
    for trial in report.trials:
        if "1 - momentum" in trial.values:
            assert report.shown(trial)["momentum"] == pytest.approx(
                1 - trial.values["1 - momentum"]
            )


def test_the_importance_finds_what_decides(report):
    shares = report.importance
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=shares.get) == "learning_rate"
    assert shares["learning_rate"] > 3 * shares["idle"]


def test_json_and_back(report):
    read = json.loads(json.dumps(report.to_dict()))
    assert [t["score"] for t in read["trials"]] == [t.score for t in report.trials]
    assert read["best"] == report.shown(report.best)


def test_the_snippet_builds_the_best_configuration(report):
    built = {}
    exec(report.snippet(), {"build": lambda hp: built.setdefault("score", build(hp))})
    assert built["score"] == pytest.approx(report.best.score)


def test_the_picture_shows_every_trial(report, tmp_path):
    figure = report.plot(tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 30_000
    curve, parallel, *slices = [a for a in figure.axes if a.get_label() != "<colorbar>"]
    done = report.ranked()
    points, best = curve.lines[0].get_ydata(), curve.lines[1].get_ydata()
    assert len(points) == len(done)
    assert best[-1] == report.best.score
    assert np.all(np.diff(best) <= 0)
    assert sum(len(line.get_xdata()) == 6 for line in parallel.lines) == len(done)
    assert [a.get_title().split(" (")[0] for a in slices] == list(report.importance)
    assert sum(len(s.collections[0].get_offsets()) for s in slices) == sum(
        len(t.values) for t in done
    )


def test_tensorboard_reads_hyperparameters_and_scores(report, tmp_path):
    report.write_tensorboard(tmp_path)
    config = EventAccumulator(str(tmp_path)).Reload()
    content = config.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert {h.name for h in experiment.hparam_infos} == {s.name for s in report.scales}
    run = EventAccumulator(str(tmp_path / f"trial_{report.best.trial}")).Reload()
    content = run.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    read = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert read == report.shown(report.best)
    assert run.Scalars("val_loss")[0].value == pytest.approx(report.best.score)


def test_a_search_without_a_finished_trial_says_so(tmp_path):
    oracle = OptunaOracle("val_loss", max_trials=2, seed=1)
    tuner = Pretend(oracle, lambda hp: hp.Float("x", 0.0, 1.0) + math.inf, directory=tmp_path)
    tuner.search(verbose=0)
    report = SearchReport.of(tuner)
    assert str(report).startswith("2 trials, 2 failed; none finished: ValueError: the builder")
    assert report.best is None
    for refused in (report.snippet, report.plot):
        with pytest.raises(ValueError, match="needs a finished trial"):
            refused()


def test_it_reads_keras_tuners_own_searches(tmp_path):
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=3, seed=1)
    tuner = Pretend(oracle, lambda hp: hp.Float("x", 0.0, 1.0), directory=tmp_path)
    with pytest.warns(DeprecationWarning, match="currentThread|getName"):
        tuner.search(verbose=0)
    report = SearchReport.of(tuner)
    assert [t.score for t in report.ranked()] == sorted(t.values["x"] for t in report.trials)
    assert report.importance == {}
