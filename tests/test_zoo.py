"""Every public procedure runs on every model and kind of data of the zoo, or says why not.

`make test` runs a sample in which every model and every procedure occurs, another one on each
backend; `make corpora` runs the rest. A pair that is refused must be refused by the message that
`zoo.REFUSALS` expects and leave the model as it was; when such a pair begins to work, its test
fails, and the table gets shorter.
"""

import fnmatch
import inspect
import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import ops, tree

import kerastools
from kerastools import optimizers
from kerastools.acceleration import accelerate, fast_predict
from kerastools.calibration import calibrate, initialize
from kerastools.callbacks import (
    EvaluationWeights,
    FreezeSchedule,
    HyperparameterScheduler,
    LearningRateFinder,
    OneCycle,
    Phase,
)
from kerastools.constraints import for_layer as constraints_for_layer
from kerastools.diagnosis import SignalMonitor, diagnose
from kerastools.folding import fold_batch_norm, recalibrate_batch_norm
from kerastools.initializers import for_layer as initializers_for_layer
from kerastools.pretraining import (
    MaskedTokens,
    pretrain_autoencoder,
    pretrain_deep_belief,
    pretrain_gan,
    pretrain_masked_tokens,
    train_tokenizer,
)
from kerastools.regularization import (
    AdaptiveDropout,
    DropoutSchedule,
    HoldConstraints,
    predict_with_dropout,
    regularize,
)
from kerastools.transfer import (
    FeatureCache,
    discriminative,
    fine_tune,
    gradual,
    layer_groups,
    linear_probe_then_fine_tune,
    reuse_layers,
    search_reuse_depth,
    surgical,
)
from tests import zoo

PROCEDURES = {}


def procedure(*covered):
    """Enrols a function of a specimen, which uses the public names `covered`, by its name."""

    def enrol(function):
        function.covers = covered
        PROCEDURES[function.__name__] = function
        return function

    return enrol


# What is compared.


def first(x, rows=zoo.BATCH):
    return tree.map_structure(lambda a: a[:rows], x)


def num_rows(s):
    given, rows = tree.flatten(s.x)[0], tree.flatten(s.rows[0])[0]
    return len(given if hasattr(given, "shape") else rows)


def outputs(model, x):
    """Returns what the model computes in inference for the first rows, flattened."""
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_state()
    found = model(tree.map_structure(ops.convert_to_tensor, first(x)), training=False)
    return [ops.convert_to_numpy(ops.cast(a, "float32")) for a in tree.flatten(found)]


def assert_equal(found, expected, tolerance=1e-5):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, abs(b).max()))


def tolerance_of(specimen, tolerance=1e-5):
    return 0.03 if "bfloat16" in specimen.name else tolerance


def weights(model):
    return [ops.convert_to_numpy(ops.cast(w, "float32")).copy() for w in model.weights]


def state(model):
    """Returns all that a procedure that returns something else must not change."""
    numbers = [ops.convert_to_numpy(v).copy() for v in model.variables if "seed" not in v.path]
    flags = [v.trainable for v in model.weights]
    methods = sorted(name for name, value in vars(model).items() if inspect.ismethod(value))
    layers = [layer.name for layer in model.layers]
    return numbers, [flags, methods, layers, model.compiled]


def assert_unchanged(model, before):
    numbers, rest = state(model)
    assert rest == before[1]
    assert len(numbers) == len(before[0])
    for a, b in zip(numbers, before[0], strict=True):
        np.testing.assert_array_equal(a, b)


def assert_finite(model):
    assert all(np.isfinite(w).all() for w in weights(model))


def head(model):
    """Returns the name of the highest layer that trains."""
    return next(layer.name for layer in reversed(model.layers) if layer.trainable_weights)


def assert_trained(history, epochs=1):
    assert len(history["loss"]) == epochs
    assert np.isfinite(history["loss"]).all()


# Before training.


@procedure("diagnosis.diagnose")
def diagnosed(s):
    before = state(s.model)
    diagnosis = diagnose(s.model, s.x, s.y, s.compiling["loss"], zoo.BATCH, "adam")
    assert_unchanged(s.model, before)
    assert np.isfinite(diagnosis.loss)
    assert str(diagnosis)


@procedure("diagnosis.diagnose")
def repaired(s):
    before = state(s.model)
    repair = diagnose(s.model, s.x, s.y, s.compiling["loss"], zoo.BATCH).repair(seed=1)
    assert_unchanged(s.model, before)
    assert_finite(repair.model)
    assert [a.shape for a in outputs(repair.model, s.rows[0])] == [
        a.shape for a in outputs(s.model, s.rows[0])
    ]


@procedure("diagnosis.SignalMonitor")
def signal_monitor(s):
    twin = s.twin()
    twin.fit()
    monitor = SignalMonitor(first(s.rows[0]), first(s.rows[1]), every=2)
    s.fit(callbacks=[monitor])
    assert monitor.steps
    assert monitor.culprit is None
    assert_equal(weights(s.model), weights(twin.model), tolerance_of(s))


@procedure("calibration.initialize")
def initialized(s):
    before = state(s.model)
    assert initialize(s.model, seed=1) is s.model
    after = state(s.model)
    assert after[1] == before[1]
    assert [a.shape for a in after[0]] == [a.shape for a in before[0]]
    assert_finite(s.model)
    kernels = [(a, b) for a, b in zip(before[0], after[0], strict=True) if a.ndim > 1]
    frozen = not s.model.trainable_weights
    assert frozen or any((a != b).any() for a, b in kernels)


@procedure("calibration.calibrate")
def calibrated(s):
    before = weights(s.model)
    x = first(s.x) if s.name == "stateful_lstm" else s.x  # They are one batch.
    assert calibrate(s.model, x) is s.model
    assert_finite(s.model)
    for old, new in zip(before, weights(s.model), strict=True):
        assert old.ndim > 1 or (old == new).all()


@procedure("initializers.for_layer", "initializers.gain", "initializers.stability")
def initializers_of_layers(s):
    for layer in s.model.layers:
        for name, initializer in initializers_for_layer(layer, seed=1).items():
            assert isinstance(initializer, keras.initializers.Initializer), name


@procedure("constraints.for_layer")
def constraints_of_layers(s):
    for layer in s.model.layers:
        for name, constraint in constraints_for_layer(layer).items():
            assert isinstance(constraint, keras.constraints.Constraint), name


@procedure("regularization.regularize")
def regularized(s):
    before = state(s.model)
    tamed = regularize(s.model, l2=1e-3, max_norm=1.0, dropout=0.2)
    assert_unchanged(s.model, before)
    assert_equal(outputs(tamed, s.rows[0]), outputs(s.model, s.rows[0]), tolerance_of(s, 1e-6))
    tamed.compile(keras.optimizers.SGD(0.01), **s.compiling)
    assert_trained(s.fit(tamed))
    assert_finite(tamed)


# Training.


@procedure("acceleration.accelerate")
def accelerated(s):
    twin = s.twin()
    expected = twin.fit(epochs=2)
    # A short last batch, by default, moves batch statistics in proportion to its rows.
    last_batch = "keep" if s.kind == "last_batch_smaller" else "auto"
    found = s.fit(accelerate(s.model, 3, last_batch=last_batch), epochs=2)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=tolerance_of(s, 1e-4), err_msg=name)
    assert_equal(weights(s.model), weights(twin.model), tolerance_of(s))
    accelerate(s.model, steps_per_call=1)
    assert not any(name in vars(s.model) for name in ("fit", "evaluate"))


@procedure("acceleration.fast_predict")
def fast_prediction(s):
    before = state(s.model)
    predict = fast_predict(s.model, batch_size=zoo.BATCH)
    x = first(s.x) if s.kind == "arrays" else s.x
    found = [a[: zoo.BATCH].astype("float32") for a in tree.flatten(predict(x))]
    if s.kind != "shuffled_dataset":
        assert_equal(found, outputs(s.model, s.rows[0]), tolerance_of(s))
    if s.name != "stateful_lstm":
        assert_unchanged(s.model, before)


WRAPPERS = {"Lookahead", "SAM"}
OPTIMIZERS = [
    name
    for name in optimizers.__all__
    if inspect.isclass(cls := getattr(optimizers, name))
    and issubclass(cls, keras.optimizers.Optimizer)
]


def trained_by(name):
    def trained(s):
        cls = getattr(optimizers, name)
        s.compile(cls(keras.optimizers.SGD(0.01)) if name in WRAPPERS else cls(0.01))
        before, trains = weights(s.model), [w.trainable for w in s.model.weights]
        assert_trained(s.fit())
        assert_finite(s.model)
        if before:
            changed = [(a != b).any() for a, b in zip(before, weights(s.model), strict=True)]
            assert any(c for c, t in zip(changed, trains, strict=True) if t)
            assert not any(
                c
                for c, t, w in zip(changed, trains, s.model.weights, strict=True)
                if not t and "moving" not in w.path
            )

    trained.__name__ = f"trained_by_{name}"
    return procedure(f"optimizers.{name}")(trained)


for optimizer_name in OPTIMIZERS:
    trained_by(optimizer_name)


@procedure("optimizers.layer_decay_groups", "optimizers.no_decay_groups", "optimizers.ParamGroup")
def parameter_groups(s):
    groups = optimizers.layer_decay_groups(s.model, 0.5)
    assert max(group.numbers["lr_multiplier"] for group in groups) == 1
    s.compile(optimizers.SGD(0.01, weight_decay=1e-2, param_groups=groups))
    assert_trained(s.fit())
    s.compile(optimizers.SGD(0.01, param_groups=optimizers.no_decay_groups(s.model)))
    assert_finite(s.model)


@procedure()
def exchanged(s):
    """Through `from_keras` and back: both go on as the original does."""
    s.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    assert type(kerastools.from_keras(s.model).optimizer) is optimizers.SGD
    s.fit()
    before = state(s.model)
    ours = kerastools.from_keras(s.model)
    theirs = kerastools.to_keras(ours)
    assert_unchanged(s.model, before)
    for made in (ours, theirs):
        assert_equal(outputs(made, s.rows[0]), outputs(s.model, s.rows[0]), tolerance_of(s, 1e-6))
        assert [w.trainable for w in made.weights] == [w.trainable for w in s.model.weights]
    # Keras on JAX shuffles once more where a model is first trained.
    expected = s.fit(shuffle=False)
    for made in (ours, theirs):
        assert s.fit(made, shuffle=False).keys() == expected.keys()
        assert_equal(weights(made), weights(s.model), tolerance_of(s, 1e-4))


@procedure("optimizers.rebind")
def rebound(s):
    s.compile(optimizers.SGD(0.01, momentum=0.9))
    s.fit()
    frozen = s.model.get_layer(head(s.model))
    frozen.trainable = False
    optimizers.rebind(s.model.optimizer, s.model)
    kept = weights(frozen)
    if s.model.trainable_weights:
        assert_trained(s.fit())
    assert_equal(weights(frozen), kept, 0)
    frozen.trainable = True
    optimizers.rebind(s.model.optimizer, s.model)
    assert_trained(s.fit())


@procedure("callbacks.FreezeSchedule", "callbacks.Phase")
def freeze_schedule(s):
    s.compile(optimizers.SGD(0.01, momentum=0.9))
    name = head(s.model)
    ours = {id(w) for w in s.model.get_layer(name).weights}
    others = [w for w in s.model.weights if id(w) not in ours]
    before, seen = [ops.convert_to_numpy(w).copy() for w in others], []

    def look(epoch, logs):
        now = [ops.convert_to_numpy(w) for w in others]
        seen.append(all((a == b).all() for a, b in zip(before, now, strict=True)))

    schedule = FreezeSchedule([Phase(name, epochs=1), Phase("all")])
    watch = keras.callbacks.LambdaCallback(on_epoch_end=look)
    assert_trained(s.fit(epochs=2, callbacks=[schedule, watch]), 2)
    assert seen[0]
    assert [t.epoch for t in schedule.history] == [0, 1]
    assert_finite(s.model)


@procedure("callbacks.OneCycle")
def one_cycle(s):
    s.compile(optimizers.SGD(0.01, momentum=0.9))
    assert_trained(s.fit(epochs=2, callbacks=[OneCycle(0.02)]), 2)
    assert_finite(s.model)


@procedure("callbacks.LearningRateFinder")
def learning_rate_finder(s):
    s.compile(optimizers.SGD(0.01))
    before = weights(s.model)
    per_epoch = {"one_row": 1, "endless_dataset": 3, "generator": 3}
    steps = per_epoch.get(s.name, per_epoch.get(s.kind, 4))
    finder = LearningRateFinder(1e-4, 1e-2, steps=12)
    s.fit(epochs=12 // steps, callbacks=[finder])  # The sweep and nothing after it.
    assert len(finder.rates) == 12
    assert np.isfinite(finder.losses).all()
    if before:
        assert_equal(weights(s.model), before, 0)


@procedure("callbacks.EvaluationWeights")
def evaluation_weights(s):
    s.compile(optimizers.ScheduleFreeAdamW(0.01))
    s.fit(callbacks=[EvaluationWeights()])
    assert s.model.optimizer.at_evaluation
    assert_trained(s.fit(callbacks=[EvaluationWeights()]))
    assert_finite(s.model)


@procedure("callbacks.HyperparameterScheduler")
def hyperparameter_scheduler(s):
    s.compile(optimizers.SGD(0.01, momentum=0.9))
    schedule = HyperparameterScheduler("momentum", lambda epoch: 0.5 + 0.25 * epoch)
    history = s.fit(epochs=2, callbacks=[schedule])
    assert history["momentum"] == [0.5, 0.75]


def live(s):
    """Returns the model with dropout whose rate may be set, compiled."""
    tamed = regularize(s.model, dropout=0.2, max_norm=1.0)
    tamed.compile(keras.optimizers.SGD(0.01), **s.compiling)
    return tamed


@procedure("regularization.DropoutSchedule")
def dropout_schedule(s):
    history = s.fit(live(s), epochs=2, callbacks=[DropoutSchedule.early(0.2, epochs=2)])
    np.testing.assert_allclose(history["dropout"], [0.2, 0.1], rtol=1e-6)


@procedure("regularization.AdaptiveDropout")
def adaptive_dropout(s):
    held_out = (first(s.rows[0]), first(s.rows[1]))
    history = s.fit(live(s), validation_data=held_out, callbacks=[AdaptiveDropout((0.1, 0.5))])
    assert 0.1 <= history["dropout"][0] <= 0.5


@procedure("regularization.HoldConstraints")
def held_constraints(s):
    tamed = live(s)
    assert_trained(s.fit(tamed, callbacks=[HoldConstraints()]))
    for w in tamed.trainable_variables:
        if w.constraint is not None:
            assert_equal([ops.convert_to_numpy(w.constraint(w))], [ops.convert_to_numpy(w)])


# After training.


@procedure("regularization.predict_with_dropout")
def prediction_with_dropout(s):
    drops = any("dropout" in layer.name for layer in s.model.layers)
    model = s.model if drops else regularize(s.model, dropout=0.2)
    before = state(model)
    mean, deviation = predict_with_dropout(model, s.x, num_samples=2, batch_size=zoo.BATCH, seed=1)
    assert_unchanged(model, before)
    shapes = [(num_rows(s), *a.shape[1:]) for a in outputs(s.model, s.rows[0])]
    assert [a.shape for a in tree.flatten(mean)] == shapes
    assert all(np.isfinite(a).all() and (a >= 0).all() for a in tree.flatten(deviation))


@procedure("folding.fold_batch_norm")
def folded(s):
    before = state(s.model)
    new, report = fold_batch_norm(s.model, return_report=True)
    assert str(report)
    assert_unchanged(s.model, before)
    assert_equal(outputs(new, s.rows[0]), outputs(s.model, s.rows[0]), tolerance_of(s))


@procedure("folding.recalibrate_batch_norm")
def recalibrated(s):
    before = weights(s.model)
    assert recalibrate_batch_norm(s.model, s.x, zoo.BATCH) is s.model
    assert_finite(s.model)
    for old, new, w in zip(before, weights(s.model), s.model.weights, strict=True):
        assert "moving" in w.path or (old == new).all(), w.path


@procedure("export.export_savedmodel")
def exported(s, tmp_path):
    from kerastools.export import export_savedmodel

    before = state(s.model)
    report = export_savedmodel(s.model, tmp_path, sample=first(s.rows[0]))
    if s.name != "stateful_lstm":
        assert_unchanged(s.model, before)
    assert report.largest_difference <= report.tolerance
    import tensorflow as tf

    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    names = list(report.inputs)
    x = s.rows[0]
    x = x if isinstance(x, dict) else dict(zip(names, tree.flatten(x), strict=True))
    given = {
        name: tf.convert_to_tensor(first(x[name]), served.structured_input_signature[1][name].dtype)
        for name in names
    }
    found = [a.numpy() for a in served(**given).values()]
    expected = outputs(s.model, s.rows[0])
    for array in expected:
        close = [a.shape == array.shape and np.allclose(a, array, atol=0.02) for a in found]
        assert any(close)


# Transfer and pretraining.


@procedure("transfer.reuse_layers")
def reused(s):
    before = state(s.model)
    upto = ([layer for layer in s.model.layers if layer.weights] or s.model.layers)[-2]
    trunk = reuse_layers(s.model, upto.name)
    assert_unchanged(s.model, before)
    nested = isinstance(upto, keras.Model)
    whole = upto if nested else keras.Model(s.model.inputs, upto.output)
    taken = first(s.rows[0])
    if isinstance(taken, dict | list) and len(trunk.inputs) < len(s.model.inputs):
        kept = [t.name for t in trunk.inputs]
        taken = next(taken[name] for name in kept) if len(kept) == 1 else taken
    assert_equal(outputs(trunk, taken), outputs(whole, s.rows[0]), 1e-6)


@procedure("transfer.fine_tune")
def fine_tuned(s):
    tuned = fine_tune(s.model, s.x, s.y, 1, 1, verbose=0, **s.options)
    assert_trained(tuned.history.history, 2)
    assert_finite(tuned.model)
    assert str(tuned)


@procedure("transfer.FeatureCache")
def feature_cache(s):
    """Training on cached features is training the head."""
    twin = s.twin()
    for each in (s, twin):
        for layer in each.model.layers:
            layer.trainable = layer.name == head(each.model)
        each.compile(keras.optimizers.SGD(0.01))
    cache = FeatureCache(s.model)
    keras.utils.set_random_seed(9)
    cache.fit(s.x, s.y, epochs=1, verbose=0, **(s.options | {"shuffle": False}))
    twin.fit(shuffle=False)
    assert_equal(weights(s.model), weights(twin.model), tolerance_of(s))


@procedure(
    "transfer.discriminative",
    "transfer.gradual",
    "transfer.layer_groups",
    "transfer.linear_probe_then_fine_tune",
    "transfer.surgical",
)
def schedules(s):
    for build in (discriminative, gradual, surgical):
        assert build(s.model, num_groups=1).phases
    assert linear_probe_then_fine_tune(s.model).phases
    assert layer_groups(s.model, 1)


@procedure("transfer.search_reuse_depth")
def reuse_depth(s):
    before = state(s.model)
    y = np.arange(num_rows(s)) % 2
    found = search_reuse_depth(
        s.model, s.x, y, epochs=8, repeats=2, batch_size=zoo.BATCH, verbose=False
    )
    assert_unchanged(s.model, before)
    assert found.scores
    assert str(found)


def pretraining(s):
    return {"epochs": 1, "batch_size": min(zoo.BATCH, num_rows(s)), "verbose": 0}


@procedure("pretraining.pretrain_autoencoder")
def autoencoder(s):
    pretrained = pretrain_autoencoder(s.model, s.x, **pretraining(s))
    assert_trained(pretrained.history.history)
    assert_finite(s.model)


@procedure("pretraining.pretrain_deep_belief")
def deep_belief(s):
    pretrain_deep_belief(s.model, s.x, **pretraining(s))
    assert_finite(s.model)


@procedure("pretraining.pretrain_gan")
def gan(s):
    pretrain_gan(s.model, s.x, latent_dim=3, **pretraining(s))
    assert_finite(s.model)


@procedure(
    "pretraining.pretrain_masked_tokens", "pretraining.MaskedTokens", "pretraining.train_tokenizer"
)
def masked_tokens(s):
    pytest.importorskip("tokenizers")
    texts = ["the cat sat on the mat", "the dog sat on the log"] * 8
    task = MaskedTokens(train_tokenizer(texts, 60), length=8)
    words = pretrain_masked_tokens(s.model, texts, task, epochs=1, batch_size=zoo.BATCH, verbose=0)
    assert_trained(words.history.history)
    assert_finite(s.model)


# Searches.


@procedure("search.tune", "search.MutableHyperModel", "search.OptunaOracle", "search.SearchReport")
def tuned(s):
    from kerastools.search import tune

    before = state(s.model)
    searching = {"max_trials": 2, "population": 2, "epochs": 1, "verbose": 0}
    report = tune(s.model, s.x, s.y, **searching, **s.options)
    assert_unchanged(s.model, before)
    assert len(report.trials) == 2
    assert_finite(report.model)


@procedure("search.PopulationTuner", "search.learning_rate")
def population_tuner(s, tmp_path):
    from kerastools.search import PopulationTuner, learning_rate

    def build(hp):
        each = s.twin()
        each.compile(optimizers.SGD(learning_rate(hp)))
        return each.model

    tuner = PopulationTuner(build, "loss", 2, 2, seed=1, directory=tmp_path)
    tuner.search(**s.fitting, epochs=1, verbose=0)
    trials = tuner.oracle.trials.values()
    assert [trial.status for trial in trials] == ["COMPLETED"] * 2


# What takes data, and runs on every kind of it.
ON_DATA = [
    "diagnosed",
    "signal_monitor",
    "calibrated",
    "accelerated",
    "fast_prediction",
    "trained_by_SGD",
    "trained_by_ScheduleFreeAdamW",
    "freeze_schedule",
    "one_cycle",
    "learning_rate_finder",
    "evaluation_weights",
    "adaptive_dropout",
    "prediction_with_dropout",
    "recalibrated",
    "fine_tuned",
    "feature_cache",
    "reuse_depth",
    "autoencoder",
    "tuned",
    "population_tuner",
]

# Public names that no procedure covers, for a reason.
ELSEWHERE = {
    "what procedures return or are given, and samples of `contracts.py`": (
        "callbacks.Plateau diagnosis.Change diagnosis.Diagnosis diagnosis.Finding "
        "diagnosis.LayerSignal diagnosis.Repair transfer.FineTuning transfer.ReuseDepth "
        "folding.FoldOutcome folding.FoldReport export.ExportReport "
        "optimizers.from_optax optimizers.to_optax"
    ),
    "parts, of which `our_parts` and `contracts.py` have models": (
        "initializers.* constraints.MaxNorm layers.* pretraining.GAN pretraining.GaussianNoise "
        "pretraining.MaskingNoise pretraining.RestrictedBoltzmann pretraining.Transposed"
    ),
    "nets and spaces of their own": (
        "search.ConvNet search.DeepDense search.RecurrentNet search.SuccessiveHalving "
        "search.betas search.decorrelated_seed search.dropout search.momentum"
    ),
}


# The tests.


def run(function, specimen, tmp_path):
    given = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(function).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(specimen, **given)


def check(name, specimen, subject, tmp_path, note):
    """Runs the procedure, or sees it refused as the table says."""
    entry = zoo.refusal(name, subject)
    if entry is None:
        run(PROCEDURES[name], specimen, tmp_path)
        return
    note("refusal", f"{'defect' if entry.defect else 'refused'}: {entry.reason}")
    before = state(specimen.model)
    expected = Exception if entry.defect else (ValueError, TypeError)
    with pytest.raises(expected, match=entry.match):
        run(PROCEDURES[name], specimen, tmp_path)
    if not entry.defect and name != "feature_cache":  # Which freezes layers beforehand.
        assert_unchanged(specimen.model, before)


def cells(subjects, procedures):
    """Returns all pairs; those outside the sample are marked as corpora.

    The sample goes along a diagonal: on TensorFlow every subject and every procedure occurs; JAX,
    which compiles longer, takes every subject once, with other procedures than TensorFlow.
    """
    num, half = len(subjects), len(subjects) // 2
    if zoo.TENSORFLOW:
        diagonal = [(i % num, i % len(procedures)) for i in range(max(num, len(procedures)))]
    else:
        diagonal = [((i + half) % num, i % len(procedures)) for i in range(num)]
    sample = {(subjects[i], procedures[j]) for i, j in diagonal}
    return [
        pytest.param(*pair, id="-".join(pair), marks=() if pair in sample else pytest.mark.corpora)
        for pair in itertools.product(subjects, procedures)
    ]


@pytest.mark.parametrize(("model", "name"), cells(list(zoo.MODELS), list(PROCEDURES)))
def test_procedure_on_model(model, name, tmp_path, record_property):
    check(name, zoo.specimen(model), model, tmp_path, record_property)


@pytest.mark.parametrize(("kind", "name"), cells(list(zoo.DATA), ON_DATA))
def test_procedure_on_data(kind, name, tmp_path, record_property):
    check(name, zoo.specimen("plain", kind), kind, tmp_path, record_property)


def test_every_public_procedure_is_enrolled():
    covered = {name for function in PROCEDURES.values() for name in function.covers}
    patterns = [pattern for names in ELSEWHERE.values() for pattern in names.split()]
    missing = [
        f"{room}.{name}"
        for room in kerastools.__all__
        for name in getattr(getattr(kerastools, room), "__all__", [])
        if f"{room}.{name}" not in covered
        and not any(fnmatch.fnmatch(f"{room}.{name}", pattern) for pattern in patterns)
    ]
    assert not missing


def test_every_refusal_names_what_exists():
    subjects = [*zoo.MODELS, *zoo.DATA, "strings"]
    for entry in zoo.REFUSALS:
        assert entry.reason
        for pattern in entry.procedures.split():
            assert fnmatch.filter(PROCEDURES, pattern), pattern
        for pattern in entry.subjects.split():
            assert fnmatch.filter(subjects, pattern), pattern
