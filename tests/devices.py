"""Trains every part and procedure on one device and on several; a program of its own.

It is started by `test_devices.py`, because TensorFlow must be given two logical devices before
anything runs, and JAX four. Prints what differs from one device with the same global batch.
"""

import sys
import traceback
from contextlib import nullcontext, suppress

import keras
import numpy as np
import pytest
from keras import layers

from kerastools import (
    KerastoolsNotice,
    calibration,
    diagnosis,
    folding,
    pretraining,
    regularization,
    transfer,
)
from kerastools.acceleration import accelerate, fast_predict
from kerastools.callbacks import (
    EvaluationWeights,
    FreezeSchedule,
    HyperparameterScheduler,
    LearningRateFinder,
    OneCycle,
    Phase,
)
from kerastools.constraints import MaxNorm
from kerastools.layers import Dropout
from kerastools.optimizers import (
    SAM,
    SGD,
    Adam,
    AdamW,
    Lookahead,
    ParamGroup,
    ScheduleFreeAdamW,
    rebind,
)

TENSORFLOW = keras.backend.backend() == "tensorflow"
rng = np.random.default_rng(0)
X, Y = np.float32(rng.normal(size=(32, 4))), np.float32(rng.normal(size=(32, 1)))
CLASSES = (Y[:, 0] > 0).astype(int)
# Sums over devices are added up in another order. Half precision rounds gradients before.
ROUNDING, HALF_ROUNDING = 1e-5, 1e-2

QUICK, LONG = {}, {}


def quick(job):
    QUICK[job.__name__] = job
    return job


def long(job):
    LONG[job.__name__] = job
    return job


class Place:
    """Where models are made and trained."""

    def __init__(self, name, strategy=None, distribution=None):
        self.name, self.strategy, self.distribution = name, strategy, distribution

    def scope(self):
        return self.strategy.scope() if self.strategy else nullcontext()

    def net(self, optimizer=None, *middle, dtype=None):
        """Returns a model made in the scope; all else happens outside, as in Keras's guides."""
        with self.scope():
            keras.utils.set_random_seed(1)
            net = keras.Sequential(
                [
                    keras.Input((4,)),
                    layers.Dense(8, "tanh", name="a", dtype=dtype),
                    *(make() for make in middle),
                    layers.Dense(8, "tanh", name="b", dtype=dtype),
                    layers.Dense(1, name="head", dtype=dtype),
                ]
            )
            if optimizer is not None:
                net.compile(optimizer(), "mse", jit_compile=not TENSORFLOW)
        return net

    def encoder(self, activation="tanh"):
        with self.scope():
            keras.utils.set_random_seed(1)
            dense = [layers.Dense(6, activation, name="e1"), layers.Dense(3, activation, name="e2")]
            return keras.Sequential([keras.Input((4,)), *dense])

    def is_home_of(self, model):
        return self.strategy is None or model.distribute_strategy is self.strategy


def fit(model, *callbacks, epochs=2, **more):
    """Trains; returns losses, weights and the optimizer's state."""
    history = model.fit(
        X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **more
    )
    state = [v.numpy() for v in model.optimizer.variables]
    return [history.history["loss"], *model.get_weights(), *state]


def adam():
    return Adam(0.01)


def momentum():
    return SGD(0.05, momentum=0.9)


# Parts.


@quick
def callbacks_and_parts(place):
    """Phases, schedules, averages of weights, groups, clipping, a constraint and dropout."""

    def optimizer():
        groups = [ParamGroup("role:bias", lr_multiplier=0.5)]
        average = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}
        return AdamW(0.01, global_clipnorm=0.1, param_groups=groups, **average)

    phases = [Phase("b|head", steps=1), Phase("all", layer_decay=0.5)]
    return fit(
        place.net(
            optimizer,
            lambda: layers.Dense(8, kernel_constraint=MaxNorm(0.5)),
            lambda: Dropout(0.5, seed=1),
        ),
        FreezeSchedule(phases),
        HyperparameterScheduler("beta_1", lambda epoch: 0.5 + epoch / 10),
        regularization.DropoutSchedule([(0, 0.0), (1, 1.0)]),
        EvaluationWeights(),
    )


@quick
def sam(place):
    return fit(place.net(lambda: SAM(SGD(0.05, momentum=0.9), rho=0.5)), epochs=1)


@(long if TENSORFLOW else quick)
def half_precision(place):
    net = place.net(adam, dtype="bfloat16")
    result = fit(net, epochs=1)
    if not TENSORFLOW:  # Slots lie where their variables lie.
        for slot in net.optimizer.variables:
            own = [v for v in net.weights if v.path.replace("/", "_") in slot.path]
            assert all(slot.value.sharding == v.value.sharding for v in own)
            assert own or len(slot.shape) < 2
    return result


@long
def phases_of_keras_adam(place):
    phases = [Phase("head", epochs=1), Phase("all", layer_decay=0.5, fresh_slots=True)]
    return fit(place.net(lambda: keras.optimizers.Adam(0.01)), FreezeSchedule(phases))


@long
def rebound(place):
    net = place.net(adam)
    fit(net, epochs=1)
    net.get_layer("a").trainable = False
    rebind(net.optimizer, net)
    return fit(net, epochs=1)


@long
def one_cycle(place):
    return fit(place.net(momentum), OneCycle(0.05))


@long
def schedule_of_steps(place):
    schedule = HyperparameterScheduler("momentum", lambda step: 0.5 + step / 10, per="batch")
    return fit(place.net(momentum), schedule)


@long
def learning_rate_finder(place):
    finder = LearningRateFinder(1e-3, 1, steps=10)
    return [*fit(place.net(momentum), finder, epochs=8), finder.suggestion, finder.losses]


@long
def exact_nesterov(place):
    return fit(place.net(lambda: SGD(0.05, 0.9, nesterov="exact")), EvaluationWeights())


@long
def schedule_free(place):
    return fit(place.net(lambda: ScheduleFreeAdamW(0.01)), EvaluationWeights())


@long
def lookahead(place):
    return fit(place.net(lambda: Lookahead(Adam(0.01), 2)), EvaluationWeights())


@long
def adaptive_sam(place):
    return fit(place.net(lambda: SAM(Adam(0.05), rho=0.5, adaptive=True)))


@long
def skipped_steps(place):
    return fit(place.net(lambda: Adam(0.01, skip_nonfinite=True, adaptive_clipnorm=0.01)))


@long
def half_precision_with_scaled_loss(place):
    make = lambda: keras.optimizers.LossScaleOptimizer(SAM(Adam(0.01)))  # noqa: E731
    phases = [Phase("head", epochs=1), Phase("all")]
    return fit(place.net(make, dtype="mixed_float16"), FreezeSchedule(phases))


@long
def dropout_as_keras(place):
    """Under `tf.distribute` the masks are not one device's, but Keras's."""
    ours, keras_own = (
        fit(place.net(adam, lambda c=cls: c(0.5, seed=1))) for cls in (Dropout, layers.Dropout)
    )
    np.testing.assert_allclose(ours[1], keras_own[1], atol=1e-6)
    return [] if TENSORFLOW else [ours[1]]


@long
def adaptive_dropout(place):
    always = {"bounds": (0.0, 1.0), "step": 1.0, "overfitting": -1, "underfitting": -2}
    callback = regularization.AdaptiveDropout(**always)
    net = place.net(adam, lambda: Dropout(0.0, seed=1))
    return fit(net, callback, validation_data=(X, Y))


@long
def signal_monitor(place):
    monitor = diagnosis.SignalMonitor(X, Y, every=2)
    return [*fit(place.net(adam), monitor), monitor.figures["gradient_norm"]]


# Procedures.

PRETRAINING = {"epochs": 1, "batch_size": 16, "seed": 1, "verbose": 0}


def pretrained(model):
    return [*model.get_weights(), *model.history.history.values()]


@quick
def autoencoder(place):
    options = {"noise": pretraining.MaskingNoise(0.3), "optimizer": "sgd", **PRETRAINING}
    return pretrained(pretraining.pretrain_autoencoder(place.encoder(), X, **options))


@long
def greedy_autoencoder(place):
    options = {"greedy": True, "optimizer": "sgd", **PRETRAINING}
    return pretrained(pretraining.pretrain_autoencoder(place.encoder(), X, **options))


@quick
def boltzmann(place):
    with place.scope():
        machine = pretraining.RestrictedBoltzmann(4, seed=1)
        machine.compile(keras.optimizers.SGD(0.1))
    machine.fit(1 / (1 + np.exp(-X)), batch_size=16, shuffle=False, verbose=0)
    return pretrained(machine)


@long
def deep_belief_with_chains(place):
    options = {"visible": "gaussian", "num_chains": 6, "gibbs_steps": 2, "optimizer": "sgd"}
    encoder = place.encoder("sigmoid")
    return pretrained(pretraining.pretrain_deep_belief(encoder, X, **options, **PRETRAINING))


@long
def gan(place):
    return pretrained(pretraining.pretrain_gan(place.encoder(), X, optimizer="sgd", **PRETRAINING))


@long
def masked_tokens(place):
    texts = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog and a bird"] * 8
    task = pretraining.MaskedTokens(pretraining.train_tokenizer(texts, 80), length=8, rate=0.3)
    with place.scope():
        keras.utils.set_random_seed(1)
        stack = [keras.Input((8,), dtype="int32"), layers.Embedding(80, 4), layers.Dense(6)]
        encoder = keras.Sequential(stack)
    options = {"optimizer": "sgd", **PRETRAINING}
    return pretrained(pretraining.pretrain_masked_tokens(encoder, texts, task, **options))


@quick
def fine_tuned(place):
    options = {"epochs": 1, "head_epochs": 1, "batch_size": 16, "shuffle": False, "verbose": 0}
    tuned = transfer.fine_tune(place.net(), X, CLASSES, **options)
    assert place.is_home_of(tuned.model)
    return tuned.model.get_weights()


@long
def trained_on_cached_features(place):
    net = place.net(adam)
    net.get_layer("a").trainable = False
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    history = transfer.FeatureCache(net).fit(X, Y, **options)
    return [history.history["loss"], *net.get_weights(), *fit(net)]


@quick
def diagnosed(place):
    net = place.net(adam)
    with place.scope():
        inside = diagnosis.diagnose(net, X, Y)
    return [inside.loss, inside.first_losses]


@long
def repaired(place):
    net = place.net(lambda: keras.optimizers.Adam(5.0))
    net.set_weights([100 * w for w in net.get_weights()])
    repair = diagnosis.diagnose(net, X, Y).repair(seed=1)
    assert place.is_home_of(repair.model)
    return [repair.diagnosis.first_losses, *fit(repair.model)]


@long
def calibrated(place):
    net = place.net(adam)
    with place.scope():
        calibration.calibrate(calibration.initialize(net, seed=1), X)
    return fit(net)


@long
def regularized(place):
    net = regularization.regularize(place.net(), l2=1e-2, max_norm=0.5)
    assert place.is_home_of(net)
    with place.scope():
        net.compile(adam(), "mse")
    return fit(net)


@long
def reused(place):
    trunk = transfer.reuse_layers(place.net(), "a")
    assert place.is_home_of(trunk)
    return [trunk.predict(X, verbose=0)]


@long
def reuse_depth(place):
    options = {"epochs": 8, "repeats": 2, "seed": 1, "verbose": 0}
    found = transfer.search_reuse_depth(place.net(), X, CLASSES, **options)
    if place.name == "two replicas":
        with place.scope():
            refused(transfer.search_reuse_depth, place.net(), X, CLASSES, match="outside the scope")
    return [result.mean_accuracy for result in found.results]


@long
def measured_and_folded(place):
    net = place.net(None, lambda: layers.BatchNormalization(name="norm"), lambda: Dropout(1.0))
    folding.recalibrate_batch_norm(net, X, batch_size=16)
    with place.scope():
        folding.recalibrate_batch_norm(net, X, batch_size=16)
    rows = [folding.fold_batch_norm(net).predict(X, verbose=0), fast_predict(net)(X)]
    return [*net.get_weights(), *rows, *regularization.predict_with_dropout(net, X, seed=1)]


@long
def accelerated(place):
    """Trains the same, or is refused before anything changes."""
    net = place.net(adam)
    with suppress(ValueError):
        accelerate(net, steps_per_call=2)
    return fit(net)


@long
def accumulated(place):
    """TensorFlow's replicas cannot, Keras's optimizers neither; it is refused by name."""
    net = place.net(lambda: Adam(0.01, gradient_accumulation_steps=2))
    if place.name == "two replicas":
        refused(fit, net, match="cannot accumulate gradients")
        return None
    return fit(net)


@long
def tuned(place):
    """A population is one program for one device: elsewhere trials are trained one by one."""
    from kerastools.search import tune

    net, options = place.net(adam), {"max_trials": 1, "population": 2, "epochs": 1, "verbose": 0}
    alone = place.name != "one device"
    notice = pytest.warns(KerastoolsNotice, match="one after the other") if alone else nullcontext()
    with notice:
        report = tune(net, X, Y, validation_data=(X, Y), batch_size=16, seed=1, **options)
    assert place.is_home_of(report.model)


def refused(function, *arguments, match):
    with pytest.raises(ValueError, match=match):
        function(*arguments)


def places():
    """Yields the places, one device first."""
    if TENSORFLOW:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, logical)
        yield Place("one device")
        yield Place("two replicas", tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        yield Place("OneDeviceStrategy", tf.distribute.OneDeviceStrategy("CPU:0"))
        return
    devices = keras.distribution.list_devices()
    assert len(devices) == 4
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout["(a|b)/kernel"] = (None, "model")
    layout["(a|b)/bias"] = ("model",)
    both = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    yield Place("one device")
    yield Place("ModelParallel", distribution=both)
    yield Place("DataParallel", distribution=keras.distribution.DataParallel(devices=devices))


def difference(expected, actual):
    pairs = zip(expected, actual, strict=True)
    pairs = [(np.asarray(a, "float64"), np.asarray(b, "float64")) for a, b in pairs]
    return max((float(np.max(abs(a - b))) for a, b in pairs if a.size), default=0.0)


def main(extent, *names):
    expected, faults = {}, 0
    for place in places():
        jobs = QUICK | (LONG if extent == "long" else {})
        if extent == "quick" and place.name in ("OneDeviceStrategy", "DataParallel"):
            jobs = {"callbacks_and_parts": callbacks_and_parts}
        for name in names or jobs:
            keras.utils.clear_session(free_memory=False)
            keras.distribution.set_distribution(place.distribution)
            limit = HALF_ROUNDING if name.startswith("half") else ROUNDING
            try:
                result = jobs[name](place)
                right = expected.setdefault(name, result)
                far = 0.0 if result is None else difference(right, result)
                what = "" if far < limit else f"differs by {far:.1e}"
            except Exception:
                what = traceback.format_exc()
            faults += bool(what)
            print(place.name, name, what or "is equal", flush=True)
    sys.exit(faults > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
