"""Callbacks that set a number: together in any order, on data of unknown length, interrupted."""

import contextlib
from itertools import combinations

import keras
import numpy as np
import pytest
from keras import ops

from kerastools.callbacks import (
    EvaluationWeights,
    FreezeSchedule,
    HyperparameterScheduler,
    LearningRateFinder,
    OneCycle,
    Phase,
)
from kerastools.diagnosis import SignalMonitor
from kerastools.layers import Dropout
from kerastools.optimizers import SGD
from kerastools.regularization import AdaptiveDropout, DropoutSchedule

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
EPOCHS, STEPS, RATE = 3, 2, 0.125
CYCLE = OneCycle(0.5, momentum=None)


def falling(epoch):
    return 0.5 / (1 + epoch)


MAKE = {
    "OneCycle": lambda: OneCycle(0.5, momentum=None),
    "finder": lambda: LearningRateFinder(1e-3, 1.0, steps=10),
    "phases": lambda: FreezeSchedule([Phase("head", epochs=1), Phase("all", lr_multiplier=0.5)]),
    "scheduler": lambda: HyperparameterScheduler("learning_rate", falling),
    "dropout": lambda: DropoutSchedule.early(0.5, epochs=2),
    "adaptive": lambda: AdaptiveDropout(step=0.1, overfitting=-np.inf, underfitting=-np.inf),
    "evaluation": EvaluationWeights,
    "Keras's scheduler": lambda: keras.callbacks.LearningRateScheduler(falling),
    # Improvements as large as that there are none of.
    "plateau": lambda: keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=1e9),
    "average": lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
}
SETS_RATE = {"OneCycle", "finder", "scheduler", "Keras's scheduler", "plateau"}
REFUSED = {
    *map(frozenset, combinations(SETS_RATE, 2)),
    *(frozenset({"finder", name}) for name in ("phases", "dropout", "adaptive")),
    frozenset({"dropout", "adaptive"}),
    frozenset({"evaluation", "average"}),
}

# The nets have averaged weights for the callbacks that use them.
pytestmark = pytest.mark.filterwarnings("ignore:Model .* is evaluated at the weights")


def mean_output(y_true, y_pred):
    """A loss whose gradient by the last bias is 1, so that each step of it is the learning rate."""
    return ops.mean(y_pred, axis=-1)


def slope(optimizer=None, eagerly=True):
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense(2, name="trunk")
    head = keras.layers.Dense(1, name="head")
    model = keras.Sequential([keras.Input((3,)), dense, Dropout(0.25, name="drop"), head])
    optimizer = SGD(RATE, use_ema=True) if optimizer is None else optimizer
    model.compile(optimizer, mean_output, run_eagerly=eagerly)
    return model


class Steps(keras.callbacks.Callback):
    """Measures the learning rate of each step by what it does to the last bias."""

    def on_train_begin(self, logs=None):
        self.rates = []

    def bias(self):
        return float(ops.convert_to_numpy(self.model.layers[-1].bias)[0])

    def on_train_batch_begin(self, batch, logs=None):
        self.before = self.bias()

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(self.before - self.bias())


def fit(model, *callbacks, data=None, epochs=EPOCHS, batch_size=4, **options):
    steps = Steps()
    x = {"x": X, "y": X[:, :1], "batch_size": batch_size} if data is None else {"x": data}
    if any(isinstance(callback, AdaptiveDropout) for callback in callbacks):
        options |= {"validation_data": (X, X[:, :1]), "validation_batch_size": 8}
    # First, to look at the bias before others put it back.
    callbacks = [steps, *callbacks]
    model.fit(**x, epochs=epochs, callbacks=callbacks, verbose=0, shuffle=False, **options)
    return np.array(steps.rates)


def expected(names, epochs):
    epochs = np.arange(epochs)
    rates = np.full(len(epochs), RATE)
    if "OneCycle" in names:
        rates = np.array([CYCLE.learning_rate_at(t, len(rates)) for t in range(len(rates))])
    if names & {"scheduler", "Keras's scheduler"}:
        rates = falling(epochs)
    if "plateau" in names:
        rates = rates * 0.5 ** np.maximum(epochs - 1, 0)
    if "phases" in names:
        rates = rates * np.where(epochs > 0, 0.5, 1)
    if "finder" in names:  # A loss that falls for ever is least at the last rate.
        rates[:10], rates[10:] = np.geomspace(1e-3, 1.0, 10), 0.1
    return rates


# Those of Keras alone are left out.
PAIRS = [
    # On JAX those whose rates act inside the step.
    pytest.param(*pair, marks=() if "phases" in pair else pytest.mark.tensorflow)
    for pair in combinations(MAKE, 2)
    if pair != ("Keras's scheduler", "plateau")
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_callbacks_in_either_order_are_right_or_refused(one, other):
    histories = []
    for names in ((one, other), (other, one)):
        model = slope()
        callbacks = [MAKE[name]() for name in names]
        if frozenset(names) in REFUSED:
            before = [ops.convert_to_numpy(v) for v in model.variables]
            with pytest.raises(ValueError, match=r"both s|needs a fit in which"):
                fit(model, *callbacks)
            for old, new in zip(before, model.variables, strict=True):
                np.testing.assert_array_equal(old, new)
            continue
        epochs = 12 if "finder" in names else EPOCHS
        rates = fit(model, *callbacks, epochs=epochs, batch_size=8)
        np.testing.assert_allclose(rates, expected({*names}, epochs), rtol=2e-3, atol=1e-6)
        dropped = {"dropout": [0.5, 0.25, 0.0], "adaptive": [0.25, 0.35, 0.45]}
        for name in dropped.keys() & {*names}:
            np.testing.assert_allclose(model.history.history["dropout"], dropped[name])
        if not SETS_RATE & {*names}:
            assert float(model.optimizer.learning_rate) == RATE
        assert model.optimizer.at_evaluation == ("evaluation" in names)
        assert model.get_layer("drop").rate == 0.25
        histories.append([*map(np.array, model.get_weights())])
    for a, b in zip(*(histories or ([], [])), strict=True):
        if {one, other} != {"phases", "average"}:  # What leaves stays at either of its weights.
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_same_callback_twice_is_refused():
    for name in ("OneCycle", "finder", "phases", "scheduler", "dropout", "adaptive"):
        with pytest.raises(ValueError, match=r"both set|needs a fit in which"):
            fit(slope(), MAKE[name](), MAKE[name]())
    fit(slope(), *(HyperparameterScheduler(n, falling) for n in ("momentum", "learning_rate")))
    cycle = OneCycle(0.5, momentum=(0.9, 0.8))
    with pytest.raises(ValueError, match="both set momentum"):
        fit(slope(), HyperparameterScheduler("momentum", falling), cycle)


LINE = keras.optimizers.schedules.PolynomialDecay(0.5, 8, 0.25)


@pytest.mark.parametrize("make", [SGD, keras.optimizers.SGD])
def test_a_phase_has_its_own_rate_inside_the_steps_only(make):
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs=None: seen.append(
            float(model.optimizer.learning_rate)
        )
    )
    phases = [Phase("head", 1), Phase("head", 1, learning_rate=0.5)]
    phases += [Phase("head", steps=3, learning_rate=LINE), Phase("all", lr_multiplier=0)]
    model = slope(make(RATE), eagerly=False)
    rates = fit(model, FreezeSchedule(phases), look, epochs=4)
    line = [float(LINE(t)) for t in range(3)]
    np.testing.assert_allclose(rates, [RATE] * 2 + [0.5] * 2 + [*line, 0], rtol=1e-5)
    assert seen == [RATE] * 8
    np.testing.assert_allclose(fit(model, epochs=1), [RATE] * 2, rtol=1e-5)
    # What follows the loss reduces a phase's own rate too; what sets the rate is refused.
    own = FreezeSchedule([Phase("head", 1), Phase("all", learning_rate=0.5)])
    rates = fit(slope(make(RATE)), own, MAKE["plateau"]())[::STEPS]
    np.testing.assert_allclose(rates, [RATE, 0.5, 0.25], rtol=1e-5)
    for name in ("OneCycle", "scheduler", "Keras's scheduler", "finder"):
        with pytest.raises(ValueError, match=r"both set learning_rate|needs a fit in which"):
            fit(slope(make(RATE)), MAKE[name](), own)


def test_a_phase_may_have_a_schedule_where_the_optimizer_has_one():
    model = slope(keras.optimizers.SGD(LINE))
    phases = [Phase("head", 1), Phase("head", 1, 0.5), Phase("head", 1, learning_rate=LINE)]
    rates = fit(model, FreezeSchedule([*phases, Phase("all")]), epochs=4)
    line = np.array([float(LINE(t)) for t in range(8)])
    np.testing.assert_allclose(rates, [*line[:2], *line[2:4] / 2, *line[:2], *line[6:]], rtol=1e-5)
    with pytest.raises(ValueError, match="Use lr_multiplier with a LearningRateSchedule"):
        fit(model, FreezeSchedule([Phase("all", learning_rate=0.1)]))


def test_a_phase_of_other_rates_is_not_compiled_again():
    traces = []

    class Traced(keras.Sequential):
        def train_step(self, *args, **kwargs):
            traces.append(1)
            return super().train_step(*args, **kwargs)

    model = Traced([keras.Input((3,)), keras.layers.Dense(1, name="head")])
    model.compile(SGD(RATE), mean_output)
    phases = [Phase("all", 1), Phase("all", 1, 0.5), Phase("all", 1, learning_rate=0.5)]
    rates = fit(model, FreezeSchedule([*phases, Phase("all")]), epochs=4)
    np.testing.assert_allclose(rates[::STEPS], [RATE, RATE / 2, 0.5, RATE], rtol=1e-5)
    assert len(traces) == 1


INTERRUPTED = {
    "OneCycle": lambda: OneCycle(0.5, momentum=(0.75, 0.5)),
    "finder": lambda: LearningRateFinder(steps=10),
    "phases": lambda: FreezeSchedule([Phase(["head", "trunk"], layer_decay=0.5, lr_multiplier=3)]),
    "scheduler": lambda: HyperparameterScheduler("momentum", lambda step: 0.5, per="batch"),
    "dropout": MAKE["dropout"],
    "adaptive": MAKE["adaptive"],
    "monitor": lambda: SignalMonitor(X, X[:, :1], every=2),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_what_a_callback_set_is_given_back_after_an_interrupt(name):
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    model = slope(SGD(RATE, momentum=0.25), eagerly=False)
    drop = model.get_layer("drop")
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt):
            fit(model, INTERRUPTED[name](), Interrupt(), epochs=6)
        assert [float(model.optimizer.learning_rate), drop.rate] == [RATE, 0.25]
        assert float(model.optimizer.momentum) == 0.25
        assert not {"fit", "compute_loss", "make_train_function"} & vars(model).keys()
    model.optimizer.momentum = 0.0
    with pytest.raises(KeyboardInterrupt) as held:
        fit(model, INTERRUPTED[name](), Interrupt(), epochs=6)
    np.testing.assert_allclose(fit(model, epochs=1), [RATE] * 2, rtol=1e-5)
    assert held.value is not None
    assert not {"fit", "compute_loss", "make_train_function"} & vars(model).keys()


UNKNOWN = {
    "finder": lambda: LearningRateFinder(1e-3, 1.0, steps=10),
    "phases": lambda: FreezeSchedule([Phase("head", steps=STEPS), Phase("all", 1), Phase("head")]),
    "phases within": lambda: FreezeSchedule([Phase("head", steps=STEPS + 1), Phase("all")]),
    "scheduler": lambda: HyperparameterScheduler("momentum", lambda step: 0.05 * step, per="batch"),
    "dropout": MAKE["dropout"],
    "adaptive": MAKE["adaptive"],
    "evaluation": EvaluationWeights,
    "monitor": lambda: SignalMonitor(X, X[:, :1], every=2),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", UNKNOWN)
def test_data_of_unknown_length_train_like_others(name):
    tf = pytest.importorskip("tensorflow")
    known = tf.data.Dataset.from_tensor_slices((X, X[:, :1])).batch(4)
    found = []
    for data in (known, known.filter(lambda x, y: True)):
        model, callback = slope(eagerly=keras.backend.backend() == "tensorflow"), UNKNOWN[name]()
        rates = fit(model, callback, data=data, epochs=7 if name == "finder" else 3)
        kept = [getattr(callback, name, None) for name in ("rates", "losses", "steps", "history")]
        kept[3] = kept[3] and [(t.epoch, t.step, t.trained) for t in kept[3]]
        found.append([rates, *kept, *model.get_weights(), *model.history.history.values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_equal(a, b)


def test_one_cycle_asks_for_the_length_of_the_data():
    def rows():
        while True:
            yield X, X[:, :1]

    with pytest.raises(ValueError, match="steps_per_epoch"):
        fit(slope(), MAKE["OneCycle"](), data=rows())
