import json
import os
import re
import subprocess
import sys
from collections import deque

import keras
import keras_tuner
import numpy as np
import pytest

from kerastools import KerastoolsNotice
from kerastools.constraints import MaxNorm
from kerastools.layers import Dropout
from kerastools.optimizers import SGD, Adam
from kerastools.search import (
    OptunaOracle,
    PopulationTuner,
    SuccessiveHalving,
    _population_tuner,
    dropout,
    learning_rate,
    momentum,
)
from kerastools.search._stacked import population

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:Trials are trained one after the other"),
]

rng = np.random.default_rng(0)
X = rng.normal(size=(96, 6)).astype("float32")
Y = (X[:, :3] + 0.2 * rng.normal(size=(96, 3))).argmax(axis=1)
DATA = {"x": X[:64], "y": Y[:64], "validation_data": (X[64:], Y[64:]), "batch_size": 16}
FIT = {**DATA, "epochs": 2, "verbose": 0}


TRACES: deque[None] = deque()  # An attribute that changes would make every model another.


class Counter(keras.layers.Layer):
    """Counts how often Python runs its call: once per trace."""

    def call(self, x):
        TRACES.append(None)
        return x


def build(hp, units=12, **penalties):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(units, activation="tanh", **penalties),
            keras.layers.BatchNormalization(),
            Counter(),
            Dropout(dropout(hp)),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    optimizer = SGD(learning_rate(hp, 1e-3), momentum(hp), nesterov=True)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Quick(keras_tuner.HyperModel):
    """Scores a trial by a random number instead of training it."""

    def __init__(self, builder=build):
        super().__init__()
        self.builder = builder

    def build(self, hp):
        return self.builder(hp)

    def fit(self, hp, model, *args, **kwargs):
        return float(np.random.random())


def tuner_in(folder, builder=build, objective="val_loss", **arguments):
    return PopulationTuner(
        builder,
        objective,
        **{"max_trials": 4, "seed": 3, "directory": folder, **arguments},
    )


def scores(tuner):
    return {name: trial.score for name, trial in sorted(tuner.oracle.trials.items())}


def newly_compiled(tuner):
    return [way for way in tuner.how_trained.values() if way.startswith("newly compiled")]


class Watched(PopulationTuner):
    """Keeps every trial's last weights and the number of traces its training took."""

    def on_epoch_begin(self, trial, model, epoch, logs=None):
        if epoch == 0:
            self.__dict__.setdefault("traces", {})[trial.trial_id] = -len(TRACES)

    def on_epoch_end(self, trial, model, epoch, logs=None):
        self.__dict__.setdefault("weights", {})[trial.trial_id] = model.get_weights()
        if epoch == FIT["epochs"] - 1:
            self.traces[trial.trial_id] += len(TRACES)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    tuner = Watched(
        build, "val_loss", max_trials=3, seed=5, directory=tmp_path_factory.mktemp("search")
    )
    tuner.search(**FIT)
    return tuner


def require_equal_to_alone(tuner, name):
    """Bitwise, weights and score: the only difference is which compiled step computed them."""
    trial = tuner.oracle.trials[name]
    alone = tuner._build(trial)
    keras.utils.set_random_seed(tuner._trial_seed(trial, 0))
    history = alone.fit(**FIT).history
    for mine, own in zip(tuner.weights[name], alone.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, own)
    assert trial.score == min(history["val_loss"])


def test_trials_that_differ_in_numbers_share_one_trace(searched):
    assert searched.traces["0"] > 0
    assert searched.traces["1"] == searched.traces["2"] == 0
    assert newly_compiled(searched) == ["newly compiled: the first of its kind"]


def test_a_trial_on_a_reused_model_equals_a_fresh_build_trained_alone(searched):
    require_equal_to_alone(searched, "2")


@pytest.mark.parametrize("chosen", [Adam, keras.optimizers.Adam])
def test_so_does_one_with_adam(tmp_path, chosen):
    def builder(hp):
        penalties, live = {}, {}
        if chosen is Adam:
            penalties["kernel_regularizer"] = keras.regularizers.L2(hp.Float("l2", 1e-4, 0.1))
            penalties["kernel_constraint"] = MaxNorm(hp.Float("bound", 0.2, 1.0))
        model = build(keras_tuner.HyperParameters(), **penalties)
        if chosen is Adam:
            live = {"beta_1": hp.Float("beta_1", 0.5, 0.9), "clipnorm": hp.Float("clip", 0.1, 1.0)}
            live |= {"epsilon": hp.Float("e", 1e-8, 0.1), "weight_decay": hp.Float("decay", 0, 0.1)}
        model.compile(chosen(learning_rate(hp), **live), "sparse_categorical_crossentropy")
        return model

    tuner = Watched(builder, "val_loss", max_trials=2, seed=5, directory=tmp_path)
    tuner.search(**FIT)
    assert len(newly_compiled(tuner)) == 1
    require_equal_to_alone(tuner, "1")


def test_best_model_is_the_best_epoch_with_its_optimizer(searched):
    best = searched.oracle.get_best_trials(1)[0]
    model = searched.get_best_models(1)[0]
    loss = model.evaluate(*DATA["validation_data"], verbose=0)[0]
    assert loss == pytest.approx(best.score, rel=1e-6)
    assert int(model.optimizer.iterations) == 4 * (best.best_step + 1)
    assert searched.get_best_hyperparameters()[0].values == best.hyperparameters.values
    searched.results_summary()


def test_half_a_state_file_is_never_left(searched, monkeypatch):
    path = os.path.join(searched.project_dir, "oracle.json")
    with open(path) as file:
        whole = json.load(file)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        searched.oracle.save()
    with open(path) as file:
        assert json.load(file) == whole


def test_a_structural_hyperparameter_has_a_model_compiled_for_each_value(tmp_path):
    def builder(hp):
        return build(hp, units=hp.Choice("units", [4, 7]))

    tuner = tuner_in(tmp_path, Quick(builder), max_trials=8)
    tuner.search()
    assert len(newly_compiled(tuner)) == 2
    assert "layer.dense.units is" in newly_compiled(tuner)[1]


@pytest.mark.parametrize("use", ["twice", "in a closure", "on the builder"])
def test_a_number_that_reaches_more_than_a_variable_is_structural(tmp_path, use):
    class Builder(Quick):
        def build(self, hp):
            self.rate = rate = dropout(hp)
            other = {
                "twice": keras.layers.GaussianNoise(rate),
                "in a closure": keras.layers.Lambda(lambda x: x * rate),
                "on the builder": keras.layers.Lambda(lambda x: x * self.rate),
            }[use]
            model = keras.Sequential([keras.Input((6,)), Dropout(rate), other])
            model.compile(Adam(learning_rate(hp)), "mse")
            return model

    tuner = tuner_in(tmp_path, Builder(), max_trials=4)
    tuner.search()
    rates = {trial.hyperparameters["dropout"] for trial in tuner.oracle.trials.values()}
    assert len(newly_compiled(tuner)) == len(rates) > 1


def test_a_search_that_was_interrupted_repeats_the_unfinished_trial(tmp_path):
    class Interrupted(Quick):
        def fit(self, hp, model, *args, **kwargs):
            if len(tuner.oracle.trials) == 3:
                raise KeyboardInterrupt
            return super().fit(hp, model)

    tuner = tuner_in(tmp_path, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        tuner.search()
    resumed = tuner_in(tmp_path, Quick())
    resumed.search()
    assert sorted(resumed.how_trained) == ["2", "3"]
    whole = tuner_in(tmp_path / "whole", Quick())
    whole.search()
    assert scores(resumed) == scores(whole)


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_nothing_and_counts_nothing_twice(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(
        "import sys\nsys.path.insert(0, sys.argv[2])\n"
        "from test_population_tuner import tuner_in, Quick\n"
        "tuner_in(sys.argv[1], Quick(), max_trials=12).search()\n"
    )
    command = [sys.executable, "-u", script, tmp_path / "runs", os.path.dirname(__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            assert process.stdout.readline().strip()
        process.kill()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    resumed = tuner_in(tmp_path / "runs", Quick(), max_trials=12)
    whole = tuner_in(tmp_path / "whole", Quick(), max_trials=12)
    whole.search()
    assert sorted(resumed.oracle.end_order) == sorted(whole.oracle.end_order)
    assert scores(resumed) == scores(whole)


def test_seeds_repeat_a_search_and_share_nothing_with_their_neighbours(tmp_path):
    found = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tuner = tuner_in(tmp_path / name, Quick(), seed=seed)
        tuner.search()
        found[name] = scores(tuner)
    assert found["a"] == found["b"]
    assert not set(found["a"].values()) & set(found["c"].values())


def test_executions_of_a_trial_differ_and_are_averaged(tmp_path):
    drawn = []

    class Recorded(Quick):
        def fit(self, hp, model, *args, **kwargs):
            drawn.append(super().fit(hp, model))
            return drawn[-1]

    tuner = tuner_in(tmp_path, Recorded(), max_trials=1, executions_per_trial=2)
    tuner.search()
    assert drawn[0] != drawn[1]
    assert tuner.oracle.trials["0"].score == pytest.approx(np.mean(drawn))


def test_a_builder_that_fails_in_some_trials_does_not_end_the_search(tmp_path):
    def builder(hp):
        if hp.Choice("broken", [False, True], default=False):
            raise RuntimeError("this one cannot be built")
        return build(hp)

    tuner = tuner_in(tmp_path, Quick(builder), max_trials=6)
    with pytest.warns(UserWarning, match="failed: RuntimeError: this one cannot be built"):
        tuner.search()
    statuses = [trial.status for trial in tuner.oracle.trials.values()]
    assert set(statuses) == {"COMPLETED", "FAILED"}
    assert len(statuses) == 6


@pytest.mark.filterwarnings("ignore:Trial . failed")
def test_one_that_cannot_be_built_says_so(tmp_path, capsys):
    def builder(hp):
        return (
            None if hp.Choice("broken", [False, True], default=False) else stackable_of(hp, 4, 0.1)
        )

    tuner = tuner_in(tmp_path, builder, max_trials=6)
    tuner.search(**{**FIT, "epochs": 1, "verbose": 1})
    failed = {t.trial_id for t in tuner.oracle.trials.values() if t.status == "FAILED"}
    assert failed
    assert {tuner.how_trained[name] for name in failed} == {"alone, because it cannot be built"}
    assert "(alone, because it cannot be built)" in capsys.readouterr().out


def test_a_diverged_trial_is_failed_and_the_next_begins_sound(tmp_path):
    def builder(hp):
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
        model.compile(SGD(hp.Choice("rate", [1e38, 0.1], default=0.1)), "mse")
        return model

    tuner = tuner_in(tmp_path, builder)
    with pytest.warns(UserWarning, match="diverged: the loss is not finite in epoch"):
        tuner.search(X, X[:, :3] * 1e3, validation_split=0.25, epochs=2, verbose=0)
    statuses = {t.hyperparameters["rate"]: t.status for t in tuner.oracle.trials.values()}
    assert statuses == {1e38: "FAILED", 0.1: "COMPLETED"}


@pytest.mark.filterwarnings("ignore:Trial . failed")
def test_a_search_whose_trials_all_fail_says_so(tmp_path):
    class Broken(Quick):
        def fit(self, hp, model, *args, **kwargs):
            raise RuntimeError("no space on device")

    with pytest.raises(RuntimeError, match=r"(?s)All 4 trials .* failed.*no space on device"):
        tuner_in(tmp_path, Broken()).search()


def test_a_callback_that_changes_or_stops_the_model_spoils_no_later_trial(tmp_path):
    class Freeze(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            Freeze.epochs += 1
            self.model.stop_training = True
            self.model.layers[0].trainable = False

    tuner = tuner_in(tmp_path, max_trials=2)
    tuner.search(**FIT, callbacks=[Freeze()])
    assert Freeze.epochs == 2
    assert len(newly_compiled(tuner)) == 2
    assert tuner.how_trained["1"] == "newly compiled: training changed the cached model"


def stackable(hp):
    return stackable_of(hp, hp.Choice("units", [4, 7], default=7))


def stackable_of(hp, units, rate=None):
    dense = keras.layers.Dense(units, "tanh")
    norm, dropped = keras.layers.BatchNormalization(), Dropout(dropout(hp))
    head = keras.layers.Dense(3, activation="softmax")
    model = keras.Sequential([keras.Input((6,)), dense, norm, dropped, head])
    rate = rate or hp.Choice("rate", [3.4e38, 0.1], default=0.1)
    model.compile(SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


IN_ORDER = {**FIT, "shuffle": False}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    tuner = tuner_in(folder, stackable, max_trials=8, population=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "_SURELY_PAYS", np.inf)
        with pytest.warns(UserWarning, match="diverged: the loss is not finite"):
            tuner.search(**IN_ORDER)
    return tuner


def test_trials_of_one_structure_are_trained_together(together):
    ways = {}
    for name, trial in together.oracle.trials.items():
        ways.setdefault(trial.hyperparameters["units"], []).append(together.how_trained[name])
    assert len(ways) == 2
    for group in ways.values():
        assert all(way.startswith("one of") for way in group)
        assert sum(way.endswith("newly compiled") for way in group) <= 3
    assert any(
        way.endswith("in a program compiled before") for way in together.how_trained.values()
    )


@pytest.mark.filterwarnings("ignore:Trial . failed")
def test_a_trial_in_company_has_the_score_that_it_has_alone(together, tmp_path):
    alone = tuner_in(tmp_path, stackable, max_trials=8, population=1)
    alone.search(**IN_ORDER)
    for name, trial in together.oracle.trials.items():
        other = alone.oracle.trials[name]
        assert trial.hyperparameters.values == other.hyperparameters.values
        assert trial.status == other.status
        if trial.status == "COMPLETED":
            assert trial.score == pytest.approx(other.score, abs=1e-5)
            assert trial.best_step == other.best_step


def test_a_member_that_diverges_is_failed_and_its_neighbours_are_not(together):
    for trial in together.oracle.trials.values():
        assert (trial.status == "FAILED") == (trial.hyperparameters["rate"] == 3.4e38)


def test_the_best_member_is_loaded_as_it_was_in_its_best_epoch(together):
    best = together.oracle.get_best_trials(1)[0]
    model = together.get_best_models(1)[0]
    loss = model.evaluate(*DATA["validation_data"], verbose=0)[0]
    assert loss == pytest.approx(best.score, rel=1e-5)
    assert int(model.optimizer.iterations) == 4 * (best.best_step + 1)
    assert float(model.optimizer.learning_rate) == pytest.approx(best.hyperparameters["rate"])


def without_input(hp):
    """As in keras-tuner's guide: the first batch tells the shape."""
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(8, "relu")])
    model.add(Dropout(dropout(hp)))
    model.add(keras.layers.Dense(3, "softmax"))
    model.compile(SGD(learning_rate(hp)), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize("population", [1, 3])
def test_a_sequential_without_input_is_trained_as_keras_trains_it(tmp_path, population):
    tuner = tuner_in(tmp_path, without_input, max_trials=3, population=population)
    tuner.search(**IN_ORDER)
    way = {1: "reused: a model compiled before", 3: "one of"}[population]
    for name, trial in tuner.oracle.trials.items():
        assert name == "0" or tuner.how_trained[name].startswith(way)
        keras.utils.set_random_seed(tuner._trial_seed(trial, 0))
        alone = without_input(trial.hyperparameters)
        keras.utils.set_random_seed(tuner._trial_seed(trial, 0))
        history = alone.fit(**IN_ORDER).history
        assert trial.score == pytest.approx(min(history["val_loss"]), abs=1e-6)
    best = tuner.oracle.get_best_trials(1)[0]
    later = tuner_in(tmp_path, without_input, max_trials=3).get_best_models(1)[0]
    loss = later.evaluate(*DATA["validation_data"], verbose=0)[0]
    assert loss == pytest.approx(best.score, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed")
def test_its_shape_may_come_with_a_dataset(tmp_path):
    import tensorflow as tf

    tuner = tuner_in(tmp_path, without_input, max_trials=2)
    train = tf.data.Dataset.from_tensor_slices((X[:64], Y[:64])).batch(16)
    tuner.search(train, validation_data=DATA["validation_data"], epochs=1, verbose=0)
    assert [t.status for t in tuner.oracle.trials.values()] == ["COMPLETED"] * 2
    assert "give it an Input" in tuner.how_trained["1"]
    loss = tuner.get_best_models(1)[0].evaluate(*DATA["validation_data"], verbose=0)[0]
    assert loss == pytest.approx(tuner.oracle.get_best_trials(1)[0].score, rel=1e-5)


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    # On a busy machine nothing is measured here: it would be another search each time.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "_SURELY_PAYS", np.inf)
        return search_halved(tmp_path_factory.mktemp("halved"))


def search_halved(folder, **oracle):
    def builder(hp):
        return stackable_of(hp, 7, hp.Float("rate", 0.01, 0.5, sampling="log"))

    tuner = tuner_in(
        folder, builder, **oracle, max_trials=6, population=2, halving=SuccessiveHalving(factor=2)
    )
    patient = keras.callbacks.EarlyStopping("loss", min_delta=10.0, patience=2)
    tuner.search(**{**IN_ORDER, "epochs": 5}, callbacks=[patient])
    return tuner


def test_a_place_goes_from_trial_to_trial_and_each_is_what_it_is_alone(halved):
    """With halving and a callback that stops; whose place it was before is not to be seen."""
    epochs = {"halving": [1, 2, 4], "a callback": [3]}
    ended = set()
    for name, trial in halved.oracle.trials.items():
        way = halved.how_trained[name]
        number, by = re.search(
            r"stopped after (\d) epochs by .*?(halving|a callback)", way
        ).groups()
        ended.add(by)
        assert int(number) in epochs[by]
        alone = halved._build(trial)
        history = alone.fit(**{**IN_ORDER, "epochs": int(number)}).history
        assert trial.score == pytest.approx(min(history["val_loss"]), abs=1e-5)
    assert ended == set(epochs)
    assert (
        sum(
            way.startswith("one of 2 trained together, newly")
            for way in halved.how_trained.values()
        )
        == 2
    )


def test_a_resumed_search_knows_the_rungs(halved):
    again = tuner_in(halved.directory, halved.hypermodel.build, halving=SuccessiveHalving(2))
    assert again._rungs.values == halved._rungs.values
    assert set(again._rungs.values[1]) == set(halved.oracle.trials)


def test_the_rungs_are_in_the_study(tmp_path):
    oracle = OptunaOracle("val_loss", 6, seed=3)
    tuner = search_halved(tmp_path, objective=None, oracle=oracle)
    assert len(tuner._rungs.values[1]) == 6
    assert oracle.share(1, {}) == tuner._rungs.values[1]


def test_a_trial_that_is_trained_alone_is_halved_too(tmp_path):
    tuner = tuner_in(tmp_path, max_trials=3, population=1, halving=SuccessiveHalving(1.01))
    tuner.search(**FIT)
    best = min(tuner.oracle.trials.values(), key=lambda trial: trial.score)
    stopped = [name for name, way in tuner.how_trained.items() if "stopped after 1 epochs" in way]
    assert best.trial_id not in stopped
    assert stopped


def test_what_cannot_be_trained_together_is_trained_alone_and_says_why(tmp_path):
    tuner = tuner_in(tmp_path, max_trials=2)
    tuner.search(**{**FIT, "epochs": 1})
    assert tuner.how_trained["1"].endswith(
        "; alone, because layer 'counter' is a Counter, which is no layer of Keras or kerastools"
    )
    quick = tuner_in(tmp_path / "quick", Quick(), max_trials=1)
    with pytest.warns(KerastoolsNotice, match="because the hypermodel overrides fit"):
        quick.search()


def two_headed(hp):
    x = inputs = keras.Input((6,))
    x = Dropout(dropout(hp))(keras.layers.Dense(4)(x))
    heads = [keras.layers.Dense(3, "softmax", name="a")(x), keras.layers.Dense(1, name="b")(x)]
    model = keras.Model(inputs, heads)
    losses = {"a": "sparse_categorical_crossentropy", "b": "mse"}
    model.compile(SGD(0.1), losses, metrics={"a": ["accuracy"]})
    return model


def targets(rows):
    return {"a": Y[rows], "b": X[rows, :1]}


TWO = {"y": targets(slice(64)), "validation_data": (X[64:], targets(slice(64, None)))}


@pytest.mark.parametrize("name", ["val_a_accuracy", "val_b_loss"])
def test_one_of_several_outputs_can_be_the_objective(tmp_path, name):
    tuner = tuner_in(tmp_path, two_headed, keras_tuner.Objective(name, "max"), max_trials=1)
    tuner.search(**{**FIT, **TWO})
    assert scores(tuner)["0"] is not None


def test_an_objective_that_is_not_reported_ends_the_search_at_the_first_trial(tmp_path):
    objective = keras_tuner.Objective("val_f1", "max")
    tuner = tuner_in(tmp_path, objective=objective)
    with pytest.raises(ValueError, match=r"'val_f1'; reported were .*val_accuracy"):
        tuner.search(**FIT, callbacks=[keras.callbacks.LambdaCallback(), Reports()])
    assert list(tuner.oracle.trials) == ["0"]


class Reports(keras.callbacks.Callback):
    """A callback of one's own, which might report anything."""


def without(*names):
    return {k: v for k, v in FIT.items() if k not in names}


def fixed(hp, units=12):
    return build(keras_tuner.HyperParameters(), units)


@pytest.mark.parametrize(
    ("builder", "objective", "fit", "error", "message"),
    [
        (lambda hp: build(hp) and None, "val_loss", FIT, TypeError, "It returned None"),
        (
            lambda hp: keras.Sequential([keras.Input((6,)), Dropout(dropout(hp))]),
            "val_loss",
            FIT,
            ValueError,
            "before compile",
        ),
        (build, keras_tuner.Objective("val_f1", "max"), FIT, ValueError, "'val_f1'; reported are"),
        (build, "val_loss", without("validation_data"), ValueError, "Pass validation_data="),
        (build, None, FIT, ValueError, "needs an objective, such as"),
        (build, "val_loss", {**FIT, "validation_freq": 2}, ValueError, "validation_freq=2"),
        (
            two_headed,
            keras_tuner.Objective("val_a_acc", "max"),
            {**FIT, **TWO},
            ValueError,
            "'val_a_acc'; reported are loss, .*val_a_accuracy",
        ),
        (fixed, "val_loss", FIT, ValueError, "defined none"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_trial(
    tmp_path, builder, objective, fit, error, message
):
    tuner = tuner_in(tmp_path, builder, objective)
    with pytest.raises(error, match=message):
        tuner.search(**fit)
    assert tuner.oracle.trials == {}


def test_a_search_without_mutable_hyperparameters_says_so(tmp_path):
    tuner = tuner_in(tmp_path, lambda hp: fixed(hp, hp.Int("units", 2, 9)), max_trials=1)
    with pytest.warns(KerastoolsNotice, match=r"units \(layer.dense.units is"):
        tuner.search(**FIT)
    assert len(scores(tuner)) == 1


def test_a_directory_of_another_search_is_refused_and_left_alone(searched):
    def other(hp):
        return build(hp, units=hp.Int("units", 2, 9))

    path = os.path.join(searched.project_dir, "oracle.json")
    before = os.stat(path).st_mtime_ns
    with pytest.raises(ValueError, match="'units' is unknown"):
        tuner_in(searched.directory, other)
    with pytest.raises(ValueError, match=r"another search .*val_loss"):
        tuner_in(searched.directory, objective="val_accuracy")
    assert os.stat(path).st_mtime_ns == before


def two_scopes(hp, high=1.0):
    kind = hp.Choice("opt", ["sgd", "adam"])
    optimizer, low, high = (SGD, 1e-3, high) if kind == "sgd" else (Adam, 1e-5, 1e-2)
    with hp.conditional_scope("opt", [kind]):
        rate = hp.Float("lr", low, high, sampling="log")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(optimizer(rate), "mse")
    return model


@pytest.mark.filterwarnings("ignore:Trial")  # keras-tuner's own oracle loses some values.
@pytest.mark.parametrize("oracle", [keras_tuner.oracles.RandomSearchOracle, OptunaOracle])
def test_a_search_with_one_name_in_two_scopes_is_resumed(tmp_path, oracle):
    def run(trials, builder=two_scopes):
        chooses = oracle("val_loss", trials, seed=1)
        tuner = tuner_in(tmp_path, Quick(builder), objective=None, oracle=chooses)
        tuner.search(verbose=0)
        return tuner

    assert len(run(5).oracle.get_space().space) == 3
    assert len(run(7).oracle.end_order) == 7
    with pytest.raises(
        ValueError, match=r"there 'lr' if opt in \['sgd'\] is .* 1.0, .*and here .* 2"
    ):
        run(8, lambda hp: two_scopes(hp, 2.0))


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seed=-1"):
        tuner_in(tmp_path, seed=-1)
    with pytest.raises(ValueError, match="population >= 1"):
        tuner_in(tmp_path, population=0)
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss")
    with pytest.raises(ValueError, match="takes objective from the oracle"):
        tuner_in(tmp_path, oracle=oracle)
    with pytest.raises(ValueError, match="takes tune_new_entries, objective from the oracle"):
        tuner_in(tmp_path, oracle=oracle, tune_new_entries=False)
    with pytest.raises(ValueError, match="HyperbandOracle"):
        tuner_in(tmp_path, objective=None, oracle=keras_tuner.oracles.HyperbandOracle("val_loss"))


@pytest.mark.parametrize("tune", [True, False])
def test_what_random_search_takes_goes_to_the_oracle(tmp_path, tune):
    given = keras_tuner.HyperParameters()
    given.Fixed("learning_rate", 0.01)
    given.Float("dropout", 0.1, 0.2)
    for trials in (3, 4):  # And the search can go on.
        arguments = {"max_trials": trials, "hyperparameters": given, "tune_new_entries": tune}
        tuner = tuner_in(tmp_path, Quick(), **arguments)
        tuner.search()
    values = [trial.hyperparameters.values for trial in tuner.oracle.trials.values()]
    assert len(values) == 4
    assert {v["learning_rate"] for v in values} == {0.01}
    assert all(0.1 <= v["dropout"] <= 0.2 for v in values)
    assert len({v["dropout"] for v in values}) > 1
    assert (len({v["1 - momentum"] for v in values}) > 1) == tune


@pytest.mark.filterwarnings("ignore:Trial . failed")
def test_a_failed_trial_may_be_tried_again(tmp_path):
    seen = []

    def builder(hp):
        model = stackable_of(hp, 4, 0.1)
        broken = hp.Choice("broken", [False, True], default=False)
        first = hp.values not in seen
        seen.append(dict(hp.values))
        return None if broken and first else model

    tuner = tuner_in(tmp_path, builder, max_trials=6, max_retries_per_trial=1)
    tuner.search(**{**FIT, "epochs": 1})
    trials = list(tuner.oracle.trials.values())
    assert [t.status for t in trials] == ["COMPLETED"] * 6
    assert {t.hyperparameters["broken"] for t in trials} == {False, True}


@pytest.mark.parametrize("kind", ["BayesianOptimizationOracle", "GridSearchOracle"])
def test_other_oracles_choose_the_configurations(tmp_path, kind):
    oracle = getattr(keras_tuner.oracles, kind)("val_loss", max_trials=3, seed=1)
    tuner = tuner_in(tmp_path, Quick(), objective=None, oracle=oracle)
    tuner.search()
    assert len(scores(tuner)) == 3


def test_a_line_for_each_trial_says_where_the_search_stands(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 1000, 90))
    monkeypatch.setattr(_population_tuner.time, "perf_counter", lambda: next(clock))
    tuner = tuner_in(tmp_path, Quick(), max_trials=3)
    tuner.search()
    lines = capsys.readouterr().out.splitlines()
    # A trial takes one and a half minutes.
    for i, left in enumerate(["3 min", "90 s", "0 s"]):
        score, best = scores(tuner)[str(i)], min(list(scores(tuner).values())[: i + 1])
        stands = f"trial {i}  {i + 1}/3  val_loss {score:.4f}  best {best:.4f}  about {left} left"
        assert lines[i].startswith(f"{stands}  (")
    assert "reused: a model compiled before" in lines[1]
