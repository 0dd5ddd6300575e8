"""`FreezeSchedule`: phases inside one `fit` that forget nothing."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from kerastools import optimizers
from kerastools.callbacks import FreezeSchedule, Phase, Plateau

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(48, 2)).astype("float32")
# Where nothing depends on the compiled step, TensorFlow need not trace it again in every phase.
EAGERLY = keras.backend.backend() == "tensorflow"


class Recorder(keras.callbacks.Callback):
    """Keeps weights, slots, iterations and learning rate at both ends of each epoch."""

    def on_train_begin(self, logs=None):
        self.begins, self.ends, self.steps = [], [], 0

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append(self.snapshot())

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.snapshot())

    def snapshot(self):
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        known = optimizer._trainable_variables
        return {
            "weights": {v.path: ops.convert_to_numpy(v) for v in self.model.weights},
            "slots": {
                (v.path, name): ops.convert_to_numpy(value[i])
                for name, value in vars(optimizer).items()
                if isinstance(value, list) and name != "_trainable_variables"
                for i, v in enumerate(known)
                if len(value) == len(known)
                and isinstance(value[i], keras.Variable)
                and value is not optimizer._variables
            },
            "iterations": int(optimizer.iterations),
            "learning_rate": float(ops.convert_to_numpy(optimizer.learning_rate)),
            "trains": {v.path.split("/")[-2] for v in self.model.trainable_weights},
        }


def make_model(norm=False):
    """Two equal layers in a nested trunk, one beside it, and a head."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(6, "tanh", name="a")(inputs)
    if norm:
        x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dense(6, "tanh", name="b")(x)
    trunk = keras.Model(inputs, x, name="trunk")
    layers = [trunk, keras.layers.Dense(6, "tanh", name="c"), keras.layers.Dense(2, name="head")]
    return keras.Sequential([keras.Input((6,)), *layers])


def fit(model, phases, epochs, callbacks=(), batch_norm="inference", **kwargs):
    schedule, recorder = FreezeSchedule(phases, batch_norm), Recorder()
    model.fit(
        X, Y, epochs=epochs, batch_size=16, verbose=0, shuffle=False,
        callbacks=[schedule, *callbacks, recorder], **kwargs,
    )  # fmt: skip
    return schedule, recorder


def layer_of(path):
    return path.split("/")[-2]


def assert_equal(old, new, keys):
    assert keys
    for key in keys:
        np.testing.assert_array_equal(old[key], new[key], err_msg=str(key))


PHASES = [Phase("head", epochs=2), Phase("b|head", epochs=1), Phase("a|c", epochs=2)]
TRAINS = [{"head"}, {"head"}, {"b", "head"}, {"a", "c"}, {"a", "c"}]


@pytest.mark.parametrize(
    ("make", "eagerly"),
    [
        (lambda: keras.optimizers.Adam(0.01), EAGERLY),
        (lambda: optimizers.Adam(0.01), EAGERLY),
        (lambda: optimizers.SGD(0.01, momentum=0.9), False),
    ],
    ids=["keras Adam", "kerastools Adam", "kerastools SGD"],
)
def test_what_was_learned_survives_every_transition(make, eagerly):
    model = make_model()
    model.compile(make(), "mse", run_eagerly=eagerly)
    schedule, recorder = fit(model, PHASES, 5)
    assert [(t.epoch, t.phase, t.trained) for t in schedule.history] == [
        (0, 0, ("head",)),
        (2, 1, ("trunk/b", "head")),
        (3, 2, ("trunk/a", "c")),
    ]
    for epoch, (begin, end) in enumerate(zip(recorder.begins, recorder.ends, strict=True)):
        assert begin["trains"] == end["trains"] == TRAINS[epoch]
        assert begin["iterations"] == 3 * epoch
        # What is frozen keeps its weights bit for bit, what is not moves.
        for path in begin["weights"]:
            same = np.array_equal(begin["weights"][path], end["weights"][path])
            assert same == (layer_of(path) not in TRAINS[epoch]), path
    for old, new in zip(recorder.ends, recorder.begins[1:], strict=False):
        assert_equal(old["weights"], new["weights"], old["weights"].keys())
        if old["trains"] & new["trains"]:
            assert_equal(old["slots"], new["slots"], old["slots"].keys() & new["slots"].keys())
    # The flags stay as the last phase had them, and training goes on from there.
    assert {v.path.split("/")[-2] for v in model.trainable_weights} == {"a", "c"}
    model.fit(X, Y, verbose=0)
    assert int(model.optimizer.iterations) == 15 + 2


def test_a_phase_equals_training_only_those_layers_from_the_start():
    # The second phase of a run that begins in it is a plain fit of a model frozen by hand.
    ours, reference = make_model(), make_model()
    ours.compile(keras.optimizers.Adam(0.01), "mse")
    fit(ours, [Phase("all", epochs=2), Phase("b|head")], 5, initial_epoch=2)
    for name in ("a", "c"):
        layer = reference.get_layer("trunk").get_layer("a") if name == "a" else None
        (layer or reference.get_layer("c")).trainable = False
    reference.compile(keras.optimizers.Adam(0.01), "mse")
    reference.fit(X, Y, epochs=3, batch_size=16, shuffle=False, verbose=0)
    for one, other in zip(ours.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_shaped_layers_that_swap_train_with_their_own_weights_and_slots():
    # On JAX, plain Keras's validation would go on with the old mapping of the weights.
    ours, reference = make_model(), make_model()
    ours.compile(keras.optimizers.SGD(0.1), "mse")
    fit(ours, [Phase("b", epochs=1), Phase("a", epochs=1)], 2, validation_data=(X, Y))
    reference.compile(keras.optimizers.SGD(0.1), "mse")
    for name in ("b", "a"):
        reference.trainable = False
        reference.trainable = True
        for layer in (*reference.get_layer("trunk").layers, *reference.layers[1:]):
            layer.trainable = layer.name == name
        reference.compile(keras.optimizers.SGD(0.1), "mse")
        reference.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    for one, other in zip(ours.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert ours.history.history["val_loss"][-1] == pytest.approx(
        reference.evaluate(X, Y, verbose=0), rel=1e-5
    )


def test_a_late_joiner_steps_by_at_most_the_learning_rate():

    class Far(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.iterations.assign(2000)

    model = make_model()
    model.compile(keras.optimizers.Adam(1e-3), "mse", run_eagerly=EAGERLY)
    _, recorder = fit(model, [Phase("head", epochs=1), Phase("a|head")], 2, callbacks=[Far()])
    last = [recorder.begins[-1]["weights"], recorder.ends[-1]["weights"]]
    (kernel,) = (path for path in last[0] if path.endswith("a/kernel"))
    # Three steps; plain Keras makes up to 3.2, 4.2 and 4.9 times the learning rate of them.
    assert np.abs(last[1][kernel] - last[0][kernel]).max() < 3 * 1e-3 * 1.001


@pytest.mark.parametrize("make", [keras.optimizers.Adam, optimizers.Adam])
def test_a_phase_with_fresh_slots_trains_as_with_a_new_optimizer(make):
    phases = [Phase("head", epochs=2), Phase("a|head", fresh_slots=True)]
    model, reference = make_model(), make_model()
    model.compile(make(0.01), "mse", run_eagerly=EAGERLY)
    fit(model, phases[:1], 2)
    reference.set_weights(model.get_weights())
    before = int(model.optimizer.iterations)
    model = make_model()
    model.compile(make(0.01), "mse", run_eagerly=EAGERLY)
    fit(model, phases, 4)
    assert int(model.optimizer.iterations) == 2 * before
    reference.compile(make(0.01), "mse", run_eagerly=EAGERLY)
    fit(reference, [Phase("a|head")], 2)
    for ours, theirs in zip(model.weights, reference.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6, err_msg=ours.path)
    kept = make_model()
    kept.compile(make(0.01), "mse", run_eagerly=EAGERLY)
    fit(kept, [phases[0], Phase("a|head")], 4)
    head = [np.array(m.layers[-1].kernel) for m in (model, kept)]
    assert np.abs(head[0] - head[1]).max() > 1e-4


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, optimizers.SGD])
def test_a_learning_rate_schedule_goes_on_under_the_multiplier(optimizer, tmp_path):
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 1.0)
    model = make_model()
    model.compile(optimizer(schedule), "mse", run_eagerly=EAGERLY)
    _, recorder = fit(model, [Phase("head", 1), Phase("all", 1, 0.1), Phase("c")], 3)
    # 3 steps an epoch: 0.1 / (1 + step).
    assert [e["learning_rate"] for e in recorder.ends] == pytest.approx(
        [0.1 / 4, 0.01 / 7, 0.1 / 10]
    )

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(tmp_path / "model.keras")

    fit(model, [Phase("all", lr_multiplier=0.1)], 1, [Save()])
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.01 / 13)


def test_frozen_batch_norm_keeps_its_statistics_and_thaws_with_its_layer():
    model = make_model(norm=True)
    model.compile("adam", "mse", run_eagerly=EAGERLY)
    _, recorder = fit(model, [Phase("head", 1), Phase("norm|head", 1)], 2)
    for epoch, moves in enumerate([False, True]):
        begin, end = recorder.begins[epoch]["weights"], recorder.ends[epoch]["weights"]
        for path in (p for p in begin if layer_of(p) == "norm"):
            assert np.array_equal(begin[path], end[path]) != moves, path


def test_batch_norm_of_frozen_layers_trains_when_asked_to():
    model = make_model(norm=True)
    model.compile("adam", "mse", run_eagerly=EAGERLY)
    _, recorder = fit(model, [Phase("head", 1)], 1, batch_norm="train")
    begin, end = recorder.begins[0]["weights"], recorder.ends[0]["weights"]
    for path in begin:
        moves = layer_of(path) in ("norm", "head")
        assert np.array_equal(begin[path], end[path]) != moves, path


def test_recalibrated_batch_norm_has_the_statistics_of_the_new_data_in_every_phase():
    model = make_model(norm=True)
    trunk, norm = model.get_layer("trunk"), model.get_layer("trunk").get_layer("norm")
    model.compile("adam", "mse", run_eagerly=EAGERLY)
    schedule = FreezeSchedule([Phase("head", 1), Phase("a", 1)], "recalibrate", 3 * X)
    seen = []

    class See(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernel, bias = (w.astype("float64") for w in trunk.get_layer("a").get_weights())
            z = np.tanh(3 * X.astype("float64") @ kernel + bias)
            np.testing.assert_allclose(norm.moving_mean.numpy(), z.mean(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(norm.moving_variance.numpy(), z.var(0), rtol=1e-4)
            seen.append(norm.moving_mean.numpy().copy())

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:  # What was frozen is measured again when the next phase begins.
                norm.moving_mean.assign(norm.moving_mean * 2)

    model.fit(X, Y, epochs=2, callbacks=[schedule, See()], verbose=0)
    assert len(seen) == 2
    assert np.array_equal(seen[1], norm.moving_mean.numpy())
    with pytest.raises(ValueError, match="needs calibration_data"):
        fit(model, [Phase("head")], 1, batch_norm="recalibrate")


def test_batch_norm_without_weights_of_its_own_is_frozen_too():
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(center=False, scale=False, name="norm")
    model = keras.Sequential([keras.Input((6,)), norm, keras.layers.Dense(2, name="head")])
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    _, recorder = fit(model, [Phase("head", 1), Phase("all", 1)], 2)
    path = next(p for p in recorder.begins[0]["weights"] if p.endswith("moving_mean"))
    a, b, c = (w["weights"][path] for w in (recorder.begins[0], *recorder.ends))
    assert np.array_equal(a, b)
    assert not np.array_equal(b, c)


def test_the_kernel_under_a_lora_update_stays_frozen():
    for frozen_before in (False, True):
        model = make_model()
        layer = model.get_layer("c")
        layer.enable_lora(2)
        layer.trainable = not frozen_before
        model.compile("sgd", "mse", run_eagerly=EAGERLY)
        before = layer.get_weights()
        fit(model, [Phase("head", 1), Phase("all", 1)], 2)
        moved = [not np.array_equal(a, b) for a, b in zip(before, layer.get_weights(), strict=True)]
        names = [v.name for v in layer.weights]
        assert dict(zip(names, moved, strict=True)) == {
            "bias": True,
            "kernel": False,
            "lora_kernel_a": True,
            "lora_kernel_b": True,
        }


def test_weights_that_were_frozen_one_by_one_stay_frozen():
    model = make_model()
    bias = model.get_layer("c").bias
    bias.trainable = False
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    before = ops.convert_to_numpy(bias)
    fit(model, [Phase("head", 1), Phase("all", 1)], 2)
    np.testing.assert_array_equal(ops.convert_to_numpy(bias), before)


def test_children_that_train_are_seen_through_a_frozen_parent():
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    fit(model, [Phase("trunk/b", 1)], 1)
    trunk = model.get_layer("trunk")
    assert [layer_of(v.path) for v in trunk.trainable_variables] == ["b", "b"]


def test_a_layer_that_is_shared_by_two_parents_trains():
    keras.utils.set_random_seed(0)
    shared = keras.layers.Dense(6, name="shared")
    first = keras.Sequential([keras.Input((6,)), shared, keras.layers.Dense(6)], name="first")
    second = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6), shared], name="second")
    head = keras.layers.Dense(2, name="head")
    model = keras.Sequential([keras.Input((6,)), first, second, head])
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    _, recorder = fit(model, [Phase("shared", 1), Phase("head", 1), Phase("first", 1)], 3)
    assert recorder.begins[0]["trains"] == {"shared"}
    assert recorder.begins[1]["trains"] == {"head"}
    assert len(recorder.begins[2]["trains"]) == 2
    assert shared.trainable


def test_mixed_precision_keeps_the_loss_scale():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model()
    finally:
        keras.config.set_dtype_policy(policy)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    _, recorder = fit(model, [Phase("head", 1), Phase("b|head", 1)], 2)
    assert int(model.optimizer.step_counter) == 6
    old, new = recorder.ends[0]["slots"], recorder.begins[1]["slots"]
    assert_equal(old, new, old.keys() & new.keys())
    assert len(old) < len(new)


def test_gradient_accumulation_goes_on():
    model = make_model()
    model.compile(
        keras.optimizers.Adam(0.01, gradient_accumulation_steps=2), "mse", run_eagerly=EAGERLY
    )
    _, recorder = fit(model, [Phase("head", 1), Phase("c|head", 1)], 2)
    # The phase ends in the middle of a window: what was accumulated is kept.
    old, new = recorder.ends[0]["slots"], recorder.begins[1]["slots"]
    accumulated = [key for key in old if key[1] == "_accumulated_gradients"]
    assert any(old[key].any() for key in accumulated)
    assert_equal(old, new, accumulated)
    assert int(model.optimizer.iterations) == 3


def test_averaged_weights_end_in_their_own_layers():
    model = make_model()
    model.compile(
        keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse", run_eagerly=EAGERLY
    )
    _, recorder = fit(model, [Phase("all", 1), Phase("b|c|head", 1)], 2)
    end = recorder.ends[-1]
    for layer in (*model.get_layer("trunk").layers[1:], *model.layers[1:]):
        path = layer.kernel.path
        expected = end["weights"][path]
        if layer.name != "a":
            expected = end["slots"][path, "_model_variables_moving_average"]
        np.testing.assert_array_equal(layer.get_weights()[0], expected)


def test_several_steps_per_execution():
    model = make_model()
    model.compile(optimizers.SGD(0.01), "mse", steps_per_execution=3)
    _, recorder = fit(model, [Phase("b|head", 1), Phase("a|c")], 2)
    assert [b["trains"] for b in recorder.begins] == [{"b", "head"}, {"a", "c"}]
    for begin, end, trains in zip(recorder.begins, recorder.ends, TRAINS[2:4], strict=True):
        for path, weight in begin["weights"].items():
            same = np.array_equal(weight, end["weights"][path])
            assert same == (layer_of(path) not in trains), path
    assert int(model.optimizer.iterations) == 6


class Losses(keras.callbacks.Callback):
    """Gives the epochs the validation losses that a test wants."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


def test_a_phase_ends_at_a_plateau_and_the_last_plateau_ends_training():
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    phases = [
        Phase("head", until=Plateau("val_loss", patience=2)),
        Phase("c|head", epochs=2, until=Plateau("val_loss", patience=5)),
        Phase("all", until=lambda epochs, logs: epochs == 3),
    ]
    recorder = Recorder()
    schedule = FreezeSchedule(phases)
    losses = Losses([5, 4, 4, float("nan"), 3, 2, 1, 1, 1, 1])
    model.fit(X, Y, epochs=10, callbacks=[losses, schedule, recorder], verbose=0)
    assert [t.epoch for t in schedule.history] == [0, 4, 6]
    assert len(recorder.ends) == 9


def test_the_best_state_of_a_phase_is_restored():
    model = make_model()
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=EAGERLY)
    plateau = Plateau("val_loss", patience=2, restore_best=True)
    recorder, schedule = Recorder(), FreezeSchedule([Phase("c|head", until=plateau), Phase("c")])
    losses = Losses([3, 1, 2, 2, 1])
    model.fit(X, Y, epochs=5, batch_size=16, callbacks=[losses, schedule, recorder], verbose=0)
    best, begin = recorder.ends[1], recorder.begins[4]
    assert_equal(best["weights"], begin["weights"], best["weights"].keys())
    assert_equal(best["slots"], begin["slots"], begin["slots"].keys())
    assert begin["iterations"] == 12
    # In the last phase training ends with it.
    schedule = FreezeSchedule([Phase("all", until=plateau)])
    model.fit(X, Y, epochs=9, callbacks=[losses, schedule, recorder], verbose=0)
    assert len(recorder.ends) == 4
    for path, value in recorder.ends[1]["weights"].items():
        (weight,) = (v for v in model.weights if v.path == path)
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_a_phase_ends_in_the_middle_of_an_epoch(steps_per_execution):
    # 3 steps an epoch; 4 steps of the head, then the rest.
    def make():
        return optimizers.SGD(0.01, momentum=0.9)

    model, reference = make_model(), make_model()
    arguments = {"loss": "mse", "run_eagerly": EAGERLY and steps_per_execution == 1}
    model.compile(make(), steps_per_execution=steps_per_execution, **arguments)
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in (0, 16, 32)] * 2
    schedule, _ = fit(model, [Phase("head", steps=4), Phase("all")], 2)
    second = schedule.history[1]
    reference.compile(make(), **arguments)
    for layer in (reference.get_layer("trunk"), reference.get_layer("c")):
        layer.trainable = False
    split = 3 * second.epoch + second.step
    assert split == (4 if steps_per_execution == 1 else 5)
    for i, (x, y) in enumerate(batches):
        if i == split:
            for layer in (reference.get_layer("trunk"), reference.get_layer("c")):
                layer.trainable = True
            optimizers.rebind(reference.optimizer, reference)
        reference.train_on_batch(x, y)
    assert int(model.optimizer.iterations) == 6
    for one, other in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("make", "layers", "powers"),
    [
        (keras.optimizers.SGD, "all", {"a": 3, "norm": 3, "b": 2, "c": 1, "head": 0}),
        (optimizers.Adam, ["head|c", "trunk"], {"a": 1, "norm": 1, "b": 1, "c": 0, "head": 0}),
        (keras.optimizers.Adam, "b|head", {"b": 1, "head": 0}),
    ],
)
def test_lower_layers_step_less_under_layer_decay(make, layers, powers):
    steps = []
    for decay in (None, 0.5):
        model = make_model(norm=True)
        model.compile(make(0.1), "mse", run_eagerly=EAGERLY)
        schedule, recorder = FreezeSchedule([Phase(layers, layer_decay=decay)]), Recorder()
        model.fit(X, Y, batch_size=48, callbacks=[schedule, recorder], verbose=0)
        begin, end = recorder.begins[0]["weights"], recorder.ends[0]["weights"]
        steps.append({tuple(p.split("/")[-2:]): end[p] - begin[p] for p in begin})
    for path, plain in steps[0].items():
        if "moving" not in path[1]:
            expected = plain * 0.5 ** powers.get(path[0], 0)
            np.testing.assert_allclose(steps[1][path], expected, rtol=1e-4, atol=2e-7)
    # It ends with training: the next fit steps as if nothing had been.
    before = model.get_weights()
    model.fit(X, Y, batch_size=48, shuffle=False, verbose=0)
    if make is keras.optimizers.SGD:
        twin = make_model(norm=True)
        twin.set_weights(before)
        for ours, theirs in zip(model.weights, twin.weights, strict=True):
            theirs.trainable = ours.trainable
        twin.compile(make(0.1), "mse", run_eagerly=EAGERLY)
        twin.fit(X, Y, batch_size=48, shuffle=False, verbose=0)
        for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_plateau_that_is_not_in_the_logs_is_refused():
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    with pytest.raises(ValueError, match=r"needs .val_loss. in the logs.*validation_data"):
        fit(model, [Phase("head", until=Plateau("val_loss")), Phase("all")], 2)


def test_an_epoch_whose_phase_is_unknown_is_refused():
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    with pytest.raises(ValueError, match="cannot tell which phase epoch 1 belongs to"):
        fit(model, [Phase("head", steps=4), Phase("all")], 2, initial_epoch=1)


def test_a_run_in_pieces_equals_one_run():
    whole, pieces = make_model(), make_model()
    for model in (whole, pieces):
        model.compile(optimizers.Adam(0.01), "mse", run_eagerly=EAGERLY)
    fit(whole, PHASES, 4)
    schedule = FreezeSchedule(PHASES)
    for epoch in range(4):
        pieces.fit(
            X, Y, initial_epoch=epoch, epochs=epoch + 1, batch_size=16, shuffle=False, verbose=0,
            callbacks=[schedule],
        )  # fmt: skip
    for one, other in zip(whole.get_weights(), pieces.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("layers", "trains"),
    [
        ("all", {"a", "b", "c", "head"}),
        ("trunk", {"a", "b"}),
        ("trunk/a", {"a"}),
        ("a", {"a"}),
        ("trunk/*", {"a", "b"}),
        ("[bc]", {"b", "c"}),
        ("b|head", {"b", "head"}),
        ("head", {"head"}),
        (["c", "trunk/b"], {"b", "c"}),
    ],
)
def test_the_ways_to_name_layers(layers, trains):
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    schedule = FreezeSchedule([Phase(layers, 1)])
    schedule.set_model(model)
    schedule.on_train_begin()
    schedule.on_epoch_begin(0)
    assert {layer_of(v.path) for v in model.trainable_weights} == trains


def test_a_layer_can_be_passed_itself_and_head_is_the_last_layer_with_weights():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(2)])
    model.add(keras.layers.ReLU())
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    schedule = FreezeSchedule([Phase(model.layers[0], 1), Phase("head")])
    schedule.set_model(model)
    schedule.on_train_begin()
    for epoch in range(2):
        schedule.on_epoch_begin(epoch)
        trains = {id(v) for v in model.trainable_weights}
        assert trains == {id(v) for v in model.layers[epoch].weights}
    config = json.loads(json.dumps(schedule.get_config()))
    assert config["phases"][0]["layers"] == model.layers[0].name


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([Phase("head", 1), Phase("nothing")], "found no layer for 'nothing'.*\"trunk/a\""),
        ([Phase("head", 1), Phase("x_*")], "found no layer for 'x_\\*'"),
        ([Phase("head", 1), Phase("[")], "found no layer for '\\['"),
        ([Phase("head", 1), Phase(["c", "nothing"])], "found no layer for 'nothing'"),
        ([Phase(3)], "needs a layer, a name, a pattern"),
        ([Phase(keras.layers.Dense(1, name="stranger"))], '"stranger", which is not in it'),
        ([Phase("drop")], "needs phases that train something"),
    ],
)
def test_a_wrong_schedule_is_refused_before_anything_is_changed(phases, message):
    model = make_model()
    model.add(keras.layers.Dropout(0.1, name="drop"))
    model.get_layer("trunk").get_layer("a").trainable = False
    model.get_layer("c").bias.trainable = False
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    model.fit(X, Y, verbose=0)
    flags = [v.trainable for v in model.weights]
    before, variables = model.get_weights(), list(model.optimizer.variables)
    with pytest.raises(ValueError, match=message):
        fit(model, phases, 2)
    assert flags == [v.trainable for v in model.weights]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(a is b for a, b in zip(variables, model.optimizer.variables, strict=True))
    model.fit(X, Y, verbose=0)


def test_an_edited_schedule_is_checked_again():
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    schedule = FreezeSchedule([Phase("head", 1), Phase("all")])
    schedule.phases.append(("c", 1))  # Which would never begin.
    with pytest.raises(ValueError, match="in every phase but the last"):
        model.fit(X, Y, callbacks=[schedule], verbose=0)
    schedule.phases[1] = ("all", 1)
    model.fit(X, Y, epochs=3, callbacks=[schedule], verbose=0)
    assert [t.trained for t in schedule.history][::2] == [("head",), ("c",)]


def test_a_rate_that_cannot_be_set_is_refused():
    model = make_model()
    model.compile(keras.optimizers.SGD(lambda: 0.1), "mse", run_eagerly=EAGERLY)
    with pytest.raises(ValueError, match="compile with a number"):
        fit(model, [Phase("all", lr_multiplier=0.1)], 1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FreezeSchedule([]), ValueError, "at least one Phase"),
        (lambda: FreezeSchedule(["head"]), TypeError, "list of Phase objects"),
        (
            lambda: FreezeSchedule([Phase("a"), Phase("b")]),
            ValueError,
            "in every phase but the last",
        ),
        (lambda: FreezeSchedule([Phase("a")], "freeze"), ValueError, "batch_norm to be one of"),
        (lambda: Phase("a", epochs=0), ValueError, "at least 1"),
        (lambda: Phase("a", epochs=1.5), ValueError, "at least 1"),
        (lambda: Phase("a", steps=0), ValueError, "steps to be an integer"),
        (lambda: Phase("a", layer_decay=0), ValueError, r"layer_decay in \(0, 1\]"),
        (lambda: Phase("a", layer_decay=1.1), ValueError, r"layer_decay in \(0, 1\]"),
        (lambda: Phase("a", until=3), ValueError, "until to be a Plateau"),
        (lambda: Plateau("f1"), ValueError, 'mode="min" or mode="max"'),
        (lambda: Plateau("loss", mode="down"), ValueError, 'mode="min" or mode="max"'),
        (lambda: Plateau("loss", 0), ValueError, "patience to be an integer"),
        (lambda: Plateau("loss", min_delta=-1), ValueError, "min_delta >= 0"),
        (lambda: Phase([]), ValueError, "at least one layer"),
        (lambda: Phase("a", lr_multiplier=-1), ValueError, "lr_multiplier to be a number >= 0"),
        (lambda: Phase("a", learning_rate=float("nan")), ValueError, "learning_rate to be a"),
        (lambda: Phase("a", 1, 0.1, 0.1), ValueError, "not both"),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_schedule_is_plain_data():
    schedule = FreezeSchedule(
        [
            (["a", "b*"], 2),
            Phase("a", steps=7, layer_decay=0.5, until=Plateau("val_acc", 3)),
            Phase("all", learning_rate=1e-4),
        ],
        batch_norm="train",
    )
    config = json.loads(json.dumps(schedule.get_config()))
    again = FreezeSchedule.from_config(config)
    assert again.get_config() == schedule.get_config()
    assert str(again) == str(schedule)
    assert "a, b*" in str(schedule)
    assert "7 steps or val_acc plateau of 3" in str(schedule)
    assert "0.0001" in str(schedule)
    assert "× 1, × 0.5 per level" in str(schedule)


def test_a_schedule_is_written_as_json_and_read_again(tmp_path):
    plateau = Plateau("val_acc", 3)
    phases = [(["a", "b*"], 2), Phase("a", steps=7, layer_decay=0.5, until=plateau), Phase("all")]
    schedule = FreezeSchedule(phases, "train")
    text = schedule.to_json(tmp_path / "schedule.json")
    for source in (text, tmp_path / "schedule.json"):
        assert FreezeSchedule.from_json(source).get_config() == schedule.get_config()
    edited = json.loads(text)
    edited["phases"][0]["epochs"] = 5
    assert FreezeSchedule.from_json(json.dumps(edited)).phases[0].epochs == 5
    with pytest.raises(ValueError, match="needs JSON as to_json returns it"):
        FreezeSchedule.from_json("nothing.json")


def test_plain_keras_ignores_or_refuses_the_same_thing():
    """The reason for it all; when this fails, Keras has learned it."""

    class Unfreeze(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.get_layer("c").trainable = epoch > 0

    model = make_model()
    model.compile("sgd", "mse")
    recorder = Recorder()
    try:
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[Unfreeze(), recorder])
    except ValueError:
        assert keras.backend.backend() == "jax"
        return
    path = model.get_layer("c").kernel.path
    begin, end = recorder.begins[0]["weights"], recorder.ends[0]["weights"]
    moved_while_frozen = not np.array_equal(begin[path], end[path])
    begin, end = recorder.begins[1]["weights"], recorder.ends[1]["weights"]
    moved_while_unfrozen = not np.array_equal(begin[path], end[path])
    assert moved_while_frozen == moved_while_unfrozen


def test_the_picture_shows_which_layer_trained_when(tmp_path):
    pytest.importorskip("matplotlib")
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    schedule, _ = fit(model, [Phase("head", 1), Phase("trunk", steps=4), Phase("all")], 4)
    figure = schedule.plot(tmp_path / "phases.png")
    above, below = figure.axes
    axes = figure.add_axes((0, 0, 0.5, 0.5))
    assert schedule.plot(axes) is figure
    assert len(figure.axes) == 4
    assert (tmp_path / "phases.png").stat().st_size > 10_000
    assert above.lines[0].get_label() == "loss"
    bars = sorted(
        (round(p.get_x(), 3), round(p.get_x() + p.get_width(), 3), round(p.get_y() + 0.4))
        for p in below.patches
    )
    # Rows: trunk/a, trunk/b, c, head; 3 steps an epoch.
    half = round(2 + 1 / 3, 3)
    expected = [(0, 1, 3), (1, half, 0), (1, half, 1), *((half, 4, row) for row in range(4))]
    assert bars == expected
    with pytest.raises(ValueError, match="needs a training to draw"):
        FreezeSchedule([Phase("all")]).plot()


class Rows(keras.utils.PyDataset):
    """Batches of rows of two inputs, with weights."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        rows = slice(16 * i, 16 * i + 16)
        return {"one": X[rows], "two": X[rows]}, Y[rows], np.linspace(0, 1, 16)


def tensorflow_dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(({"one": X, "two": X}, Y)).batch(16)


@pytest.mark.parametrize(
    "data",
    [
        {"x": {"one": X, "two": X}, "y": Y, "sample_weight": np.linspace(0, 1, 48)},
        {"x": {"one": X, "two": X}, "y": Y[:, 0] > 0, "class_weight": {0: 0.2, 1: 2.0}},
        {"x": Rows},
        {"x": tensorflow_dataset},
    ],
    ids=["sample weights", "class weights", "PyDataset", "tf.data"],
)
def test_whatever_fit_takes(data):
    settings = {"batch_size": 16} if "y" in data else {}
    x = data["x"]() if callable(data["x"]) else data["x"]
    kernels = []
    for by_hand in (False, True):
        keras.utils.set_random_seed(3)
        inputs = {name: keras.Input((6,), name=name) for name in ("one", "two")}
        both = keras.layers.Add()(list(inputs.values()))
        head = keras.layers.Dense(2, "softmax", name="head")
        outputs = head(keras.layers.Dense(4, name="trunk")(both))
        model = keras.Model(inputs, outputs)
        model.get_layer("trunk").trainable = not by_hand
        loss = "sparse_categorical_crossentropy" if "class_weight" in data else "mse"
        model.compile("sgd", loss, run_eagerly=EAGERLY)
        callbacks = [] if by_hand else [FreezeSchedule([Phase("head", epochs=9), Phase("all")])]
        # The second phase never begins, as fit ends before.
        arguments = data | settings | {"x": x, "callbacks": callbacks, "shuffle": False}
        model.fit(**arguments, epochs=2, verbose=0)
        kernels.append(model.get_weights())
    for ours, theirs in zip(*kernels, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.any(kernels[0][-1])  # The head's bias has moved.


def test_a_model_saved_in_the_middle_goes_on_after_loading(tmp_path):
    whole, first = make_model(), make_model()
    for model in (whole, first):
        model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=EAGERLY)
    fit(whole, PHASES, 3)
    fit(first, PHASES, 2)
    first.save(tmp_path / "middle.keras")
    loaded = keras.saving.load_model(tmp_path / "middle.keras")
    loaded.run_eagerly = EAGERLY
    fit(loaded, PHASES, 3, initial_epoch=2)
    for one, other in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_second_fit_begins_with_the_first_phase_again():
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=EAGERLY)
    schedule = FreezeSchedule([Phase("head", 1), Phase("all")])
    for _ in range(2):
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[schedule])
        assert [(t.epoch, t.phase) for t in schedule.history] == [(0, 0), (1, 1)]
