"""The slots of a population, with models that take no time to train."""

import keras
import keras_tuner
import numpy as np
import pytest

from kerastools import KerastoolsNotice
from kerastools.layers import Dropout
from kerastools.optimizers import SGD
from kerastools.search import PopulationTuner, SuccessiveHalving, dropout
from kerastools.search._stacked import population
from kerastools.search._stacked.stacked_model import StackedModel
from kerastools.search._stacked.stacked_update import StackedUpdate

pytestmark = pytest.mark.tensorflow

X = keras.ops.convert_to_numpy(keras.ops.zeros((4, 2)))
FIT = {"x": X, "y": X, "validation_data": (X, X), "epochs": 9, "verbose": 0}


class Instant:
    """In place of a program: the loss of a trial is its number, in every epoch."""

    def __init__(self, template, size):
        self.template, self.size, self.losses = template, size, [0.0] * size
        self.log = []
        Instant.made.append(size)

    def load(self, models):
        for k, model in models.items():
            self.losses[k] = float(model.trial)

    def train(self, *data):
        return [{"loss": 1.0, "val_loss": loss} for loss in self.losses]

    def evaluate(self, *data):
        return [{}] * self.size

    def keep_best(self, improved):
        self.log.append(improved.sum())

    def best_state(self, k):
        return []


@pytest.fixture
def instant(monkeypatch):
    def build_named(tuner, trial, execution=0, **kwargs):
        model = plain(tuner, trial, execution, **kwargs)
        model.trial = trial.trial_id
        return model

    plain = PopulationTuner._build
    monkeypatch.setattr("kerastools.search._stacked.stacked_model.StackedModel", Instant)
    monkeypatch.setattr(population.Population, "_compare_with_fit", lambda *given: None)
    monkeypatch.setattr(PopulationTuner, "_build", build_named)
    monkeypatch.setattr(Instant, "made", [], raising=False)


def build(hp):
    model = keras.Sequential([keras.Input((2,)), Dropout(dropout(hp)), keras.layers.Dense(2)])
    model.compile(SGD(hp.Float("rate", 0.01, 0.1)), "mse")
    return model


def tuner_in(folder, **arguments):
    arguments = {"max_trials": 8, "population": 3, "seed": 1} | arguments
    return PopulationTuner(build, "val_loss", directory=folder, **arguments)


def scores(tuner):
    return {name: trial.score for name, trial in tuner.oracle.trials.items()}


def test_the_slot_of_a_stopped_trial_is_refilled_in_the_same_program(instant, tmp_path):
    tuner = tuner_in(tmp_path, max_trials=12, halving=SuccessiveHalving(3, min_epochs=2))
    tuner.search(**FIT)
    assert scores(tuner) == {f"{i:02}": float(i) for i in range(12)}
    # The lower the number, the better: of 3 that come together the first stays, of those after it
    # none. It passes the rung at 6 epochs, too, alone.
    stopped = {n for n, way in tuner.how_trained.items() if "stopped after 2 epochs" in way}
    assert stopped == {f"{i:02}" for i in range(1, 12)}
    assert Instant.made == [3]
    assert all(way.startswith("one of ") for way in tuner.how_trained.values())


def test_a_population_has_no_more_slots_than_there_are_trials(instant, tmp_path, capsys):
    """An empty slot would be trained all the same."""
    tuner_in(tmp_path, max_trials=2).search(**FIT | {"verbose": 1})
    assert Instant.made == [2]
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert "1 running" in first
    assert "running" not in second


def test_an_interrupted_population_repeats_what_was_not_finished(instant, tmp_path, monkeypatch):
    done, names = population.Population._end, []

    def interrupted(population, member, state):
        if len(names) == 4:
            raise KeyboardInterrupt
        names.append(member.name)
        return done(population, member, state)

    monkeypatch.setattr(population.Population, "_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuner_in(tmp_path).search(**FIT)
    first = [names.pop() for _ in range(4)]
    names.extend("abcdef")  # So that it goes through.
    resumed = tuner_in(tmp_path)
    resumed.search(**FIT)
    assert sorted(first + names[6:]) == [str(i) for i in range(8)]
    assert scores(resumed) == {str(i): float(i) for i in range(8)}


@pytest.mark.parametrize(("alone", "chosen"), [(0.5, "alone"), (50.0, "together")])
def test_where_steps_are_long_one_trial_alone_decides_which_way_is_cheaper(
    instant, tmp_path, monkeypatch, alone, chosen
):
    """Together an epoch of all three takes 3 seconds, 1 for each, as the clocks have it here."""
    clock = iter(range(0, 100_000, 3))
    monkeypatch.setattr(population.time, "process_time", lambda: next(clock))

    def train_alone(tuner, hp, model, *args, **kwargs):
        tuner_now._timer.seconds = alone
        return {"val_loss": 0.0}

    monkeypatch.setattr(keras_tuner.HyperModel, "fit", train_alone)
    tuner_now = tuner_in(tmp_path)
    tuner_now.search(**FIT)
    ways = list(tuner_now.how_trained.values())
    assert sum("it is measured whether" in way for way in ways) == 1
    assert sum("an epoch takes 0.5 s" in way for way in ways) == (4 if chosen == "alone" else 0)
    assert sum(way.startswith("one of") for way in ways) == (3 if chosen == "alone" else 7)
    assert all(trial.status == "COMPLETED" for trial in tuner_now.oracle.trials.values())


def wrong_loss(monkeypatch):
    right = StackedModel._penalty
    monkeypatch.setattr(StackedModel, "_penalty", lambda self, values: right(self, values) + 0.01)


def wrong_update(monkeypatch):
    right = StackedUpdate.__call__

    def update(self, theta, g, penalties):
        right(self, theta, keras.tree.map_structure(lambda a: -a, g), penalties)

    monkeypatch.setattr(StackedUpdate, "__call__", update)


@pytest.mark.parametrize("fault", [wrong_loss, wrong_update])
def test_a_population_whose_first_steps_are_not_those_of_fit_is_trained_alone(
    fault, monkeypatch, tmp_path
):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 2))
    data = {"x": x, "y": y, "validation_data": (x, y), "batch_size": 8, "shuffle": False}
    right = tuner_in(tmp_path / "right", max_trials=3)
    right.search(**data, verbose=0)
    assert all("together" in how for how in right.how_trained.values())
    fault(monkeypatch)
    wrong = tuner_in(tmp_path / "wrong", max_trials=3)
    with pytest.warns(KerastoolsNotice, match="one after the other: .* fit"):
        wrong.search(**data, verbose=0)
    assert scores(wrong) == pytest.approx(scores(right), rel=1e-5)
