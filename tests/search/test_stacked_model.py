import re

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from kerastools._core.keras_private.graph_nodes import RECORDED_TRAINING_HOLDS
from kerastools.constraints import MaxNorm
from kerastools.layers import Dropout
from kerastools.optimizers import SGD, Adagrad, Adam, Adamax, AdamW, Nadam, RAdam, RMSprop
from kerastools.search._reuse.model_cache import state_of
from kerastools.search._stacked.eligibility import why_model_cannot_stack
from tests.search.stacked import weights_of

pytestmark = pytest.mark.tensorflow

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = ((DIGITS - DIGITS.mean()) / DIGITS.std()).astype("float32")
# A last partial batch of 5 rows, and validation rows that are no multiple of anything.
DATA = (DIGITS[:1029], LABELS[:1029])
VALIDATION = (DIGITS[1029:1430], LABELS[1029:1430])


def stack(models, size):
    from kerastools.search._stacked.stacked_model import StackedModel

    stacked = StackedModel(models[0], size)
    stacked.load(dict(enumerate(models)))
    return stacked


def train(stacked, x, y, batch_size=64, epochs=1, validation=None):
    for _ in range(epochs):
        logs = stacked.train(x, y, batch_size, np.arange(len(x)))
    if validation is None:
        return logs
    validated = stacked.evaluate(*validation, batch_size)
    return [log | more for log, more in zip(logs, validated, strict=True)]


# Smooth activations: where a row lies within rounding of a kink, one program takes the slope on its
# left and the other that on its right, and the unit's weights differ by a step's worth of one row.
def deep(optimizer, rate=0.2, seed=0):
    layers = [keras.Input((64,))]
    for i in range(3):
        layers += [
            keras.layers.Dense(
                40,
                use_bias=i % 2 == 0,
                kernel_initializer=keras.initializers.HeNormal(seed=10 * seed + i),
                kernel_constraint=MaxNorm(1.5),
                bias_constraint=keras.constraints.NonNeg() if i == 0 else None,
            ),
            keras.layers.BatchNormalization(trainable=i != 1, scale=i != 2),
            keras.layers.Activation("tanh") if i % 2 else keras.layers.ELU(),
            Dropout(rate, seed=10 * seed + i),
        ]
    head = keras.layers.Dense(
        10, activation="softmax", kernel_initializer=keras.initializers.HeNormal(seed=seed + 77)
    )
    model = keras.Sequential([*layers, head])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


OPTIMIZERS = {
    "sgd": lambda k: SGD(0.02 * (k + 1), 0.5 + 0.1 * k, nesterov=True, clipnorm=0.5 + k),
    # ε is large because a bias before batch normalisation has a gradient of rounding errors only;
    # divided by their own size they would be steps of η, in another direction for each program.
    "adam": lambda k: Adam(
        1e-3 * (k + 1),
        0.8 + 0.05 * k,
        0.99,
        10.0 ** -(k + 1),
        amsgrad=True,
        weight_decay=0.01 * k,
        clipvalue=0.1,
    ),
}


@pytest.mark.parametrize(("kind", "own_seeds"), [("sgd", True), ("adam", False)])
def test_each_member_equals_its_model_trained_alone_by_keras(kind, own_seeds):
    """Dropout included: each draws the masks that it would draw alone. Four epochs of digits."""

    def build(k):
        return deep(OPTIMIZERS[kind](k), rate=0.1 * k, seed=k if own_seeds else 0)

    stacked = stack([build(k) for k in range(3)], size=4)
    assert why_model_cannot_stack(stacked.template) is None
    logs = train(stacked, *DATA, 32, 4, VALIDATION)
    alone = build(2)
    history = alone.fit(
        *DATA, validation_data=VALIDATION, batch_size=32, epochs=4, shuffle=False, verbose=0
    ).history
    for mine, own in zip(weights_of(stacked, 2), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, own, rtol=0, atol=1e-4)
    for name, values in history.items():
        assert logs[2][name] == pytest.approx(values[-1], abs=2e-4), name


def small(rate=0.1, learning_rate=0.01):
    hidden = keras.layers.Dense(20, "relu", kernel_initializer=keras.initializers.HeNormal(seed=1))
    head = keras.layers.Dense(10, "softmax", kernel_initializer=keras.initializers.HeNormal(seed=2))
    norm, dropped = keras.layers.BatchNormalization(), Dropout(rate, seed=3)
    model = keras.Sequential([keras.Input((64,)), hidden, norm, dropped, head])
    model.compile(Adam(learning_rate), "sparse_categorical_crossentropy")
    return model


def test_a_member_is_the_same_in_any_company_and_any_place():
    alone = stack([small(0.3)], 1)
    together = stack([small(), small(0.5), small(0.3)], 5)
    for stacked in (alone, together):
        train(stacked, *DATA)
    for a, b in zip(weights_of(alone, 0), weights_of(together, 2), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_a_member_that_diverges_leaves_the_others_as_they_are():
    def beside_rate(learning_rate):
        stacked = stack([small(), small(learning_rate=learning_rate)], 2)
        logs = train(stacked, *DATA)
        return weights_of(stacked, 0), logs

    sound, _ = beside_rate(0.01)
    beside, logs = beside_rate(float(np.finfo("float32").max))
    assert np.isnan(logs[1]["loss"])
    assert np.isfinite(logs[0]["loss"])
    for a, b in zip(sound, beside, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_place_that_is_given_to_another_begins_anew_and_its_neighbour_goes_on():
    """Statistics, slots, step count and seeds: whose place it was is not to be seen."""
    refilled, ahead, fresh = (stack([small(0.4)], 2) for _ in range(3))
    refilled.load({1: small(learning_rate=float(np.finfo("float32").max))})
    fresh.load({1: small(0.2)})
    train(refilled, *DATA)
    assert not np.isfinite(weights_of(refilled, 1)[0]).any()
    refilled.load({1: small(0.2)})
    train(refilled, *DATA)
    train(ahead, *DATA, epochs=2)
    train(fresh, *DATA)
    for mine, own in (
        (weights_of(refilled, 1), weights_of(fresh, 1)),
        (weights_of(refilled, 0), weights_of(ahead, 0)),
    ):
        for a, b in zip(mine, own, strict=True):
            np.testing.assert_array_equal(a, b)
    refilled.keep_best(np.array([False, True]))
    alone = small(0.2)
    alone.fit(*DATA, batch_size=64, epochs=1, shuffle=False, verbose=0)
    for mine, own in zip(refilled.best_state(1), state_of(alone), strict=True):
        np.testing.assert_allclose(mine, keras.ops.convert_to_numpy(own), rtol=0, atol=1e-4)


def both(k):
    return keras.regularizers.L1L2(1e-3 * k, 1e-2 * k)


def square(k):
    return keras.regularizers.L2(0.01 * k)


RULES = {
    "sgd": lambda k: SGD(0.01 * (k + 1), 0.5, global_clipnorm=0.5 + k),
    "adagrad": lambda k: Adagrad(0.01 * (k + 1), 0.2, 10.0 ** -(k + 2)),
    "rmsprop": lambda k: RMSprop(1e-3, 0.8 + 0.1 * k, 0.3 * k, 1e-2, centered=True),
    "nadam": lambda k: Nadam(1e-3, 0.7 + 0.1 * k, 0.99, 1e-2, weight_decay=0.1 * k),
    "adamax": lambda k: Adamax(1e-3 * (k + 1), 0.8, 0.9 + 0.05 * k, 1e-2, clipnorm=0.1 + k),
    "radam": lambda k: RAdam(1e-3, 0.7 + 0.1 * k, 0.99, 1e-2),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_optimizer_penalty_and_bound_has_the_numbers_of_its_member(rule):
    def build(k):
        keras.utils.set_random_seed(k)
        bounds = [MaxNorm(0.5 + k), keras.constraints.MaxNorm(0.4 + k, axis=0)]
        hidden = [
            keras.layers.Dense(6, "tanh", kernel_regularizer=penalty(k), kernel_constraint=bound)
            for penalty, bound in zip((both, square), bounds, strict=True)
        ]
        head = keras.layers.Dense(
            10, "softmax", kernel_regularizer=keras.regularizers.L1(0.001 * k)
        )
        model = keras.Sequential([keras.Input((64,)), *hidden, head])
        model.compile(RULES[rule](k), "sparse_categorical_crossentropy")
        return model

    x, y, few = DIGITS[:100], LABELS[:100], slice(100, 130)
    assert why_model_cannot_stack(build(0)) is None
    stacked = stack([build(0), build(1)], 2)
    logs = train(stacked, x, y, 32, 4, (DIGITS[few], LABELS[few]))
    stacked.keep_best(np.array([True, True]))
    alone = build(1)
    validation = (DIGITS[few], LABELS[few])
    history = alone.fit(x, y, 32, 4, validation_data=validation, shuffle=False, verbose=0).history
    for mine, own in zip(stacked.best_state(1), state_of(alone), strict=True):
        own = keras.ops.convert_to_numpy(own)
        np.testing.assert_allclose(mine, own, rtol=1e-4, atol=1e-4)
    for name, values in history.items():
        assert logs[1][name] == pytest.approx(values[-1], rel=1e-4), name


APART = RULES | {
    "sgd": lambda k: SGD(0.01 * (k + 1), 0.5 + 0.1 * k, nesterov=True, weight_decay=0.1 * k),
    "adam": lambda k: Adam(1e-3 * (k + 1), 0.8 + 0.05 * k, 0.99, 10.0 ** -(k + 2)),
    "amsgrad": lambda k: AdamW(
        1e-3, 0.1 * k, 0.8, 0.99, 1e-2, amsgrad=True, epsilon_mode="outside"
    ),
    "rmsprop": lambda k: RMSprop(1e-3, 0.8 + 0.05 * k, epsilon=1e-2),
    "memory": lambda k: Adam(1e-2, 0.8, round(1 - 10.0 ** -(k + 4), 7), 1e-3),
    "clipped": lambda k: Adam(1e-3 * (k + 1), 0.8, 0.99, 1e-2, clipnorm=0.1 + k),
    "adamax": lambda k: Adamax(1e-3 * (k + 1), 0.8, 0.9 + 0.03 * k, 1e-2, weight_decay=0.1 * k),
}


@pytest.mark.parametrize("rule", APART)
def test_a_large_kernel_is_moved_with_the_numbers_of_its_member(rule):
    """By the kernel of its optimizer, if it has one, unless it is clipped."""

    def build(k):
        keras.utils.set_random_seed(k)
        hidden = keras.layers.Dense(80, "tanh", kernel_regularizer=square(k))
        model = keras.Sequential(
            [keras.Input((64,)), hidden, keras.layers.Dense(10, activation="softmax")]
        )
        model.compile(APART[rule](k), "sparse_categorical_crossentropy")
        model.optimizer.exclude_from_weight_decay(var_names=["bias"])
        return model

    x, y = DIGITS[:100], LABELS[:100]
    stacked = stack([build(0), build(1)], 2)
    fused = rule not in ("clipped", "adagrad", "nadam")
    assert stacked.update.buffers.separate == [fused, False, False, False]
    train(stacked, x, y, 32, 2)
    stacked.load({0: build(2)})
    logs = train(stacked, x, y, 32, 2)
    stacked.keep_best(np.array([True, True]))
    for k, seed, epochs in ((0, 2, 2), (1, 1, 4)):
        alone = build(seed)
        history = alone.fit(x, y, 32, epochs, shuffle=False, verbose=0).history
        assert logs[k]["loss"] == pytest.approx(history["loss"][-1], rel=1e-4)
        for mine, own in zip(stacked.best_state(k), state_of(alone), strict=True):
            own = keras.ops.convert_to_numpy(own)
            np.testing.assert_allclose(mine, own, rtol=1e-4, atol=1e-4)


def test_layers_that_compute_alike_share_a_trace_and_not_their_numbers():
    def build(k):
        keras.utils.set_random_seed(k)
        layers = [keras.Input((64,)), keras.layers.Dense(12, "tanh")]
        for i in range(3):
            layers += [
                keras.layers.Dense(12, "tanh" if i < 2 else "elu", name=f"dense{i}"),
                keras.layers.BatchNormalization(trainable=i != 1, name=f"norm{i}"),
                Dropout(0.1 * (k + 1), name=f"drop{i}"),
            ]
        model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
        model.layers[-2].rate = 0.05
        model.compile(SGD(0.05, 0.9), "sparse_categorical_crossentropy")
        return model

    x, y = DIGITS[:100], LABELS[:100]
    stacked = stack([build(0), build(1)], 2)
    train(stacked, x, y, 32, 3, (x, y))
    template = stacked.template
    shared = {layer.name for layer in template.layers if layer in stacked.traces}
    assert shared == {"dense0", "dense1", "norm0", "norm2", "drop0", "drop1"}
    # In training and in evaluation, where dropout is none either.
    assert len(stacked.traces.functions) == 2 * 3
    alone = build(1)
    alone.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0)
    for mine, own in zip(weights_of(stacked, 1), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, own, rtol=0, atol=1e-4)


def regression(width=1):
    model = keras.Sequential([keras.Input((4, 16)), keras.layers.Dense(3, activation="tanh")])
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(width, kernel_initializer="zeros"))
    model.layers[0].set_weights([np.full((16, 3), 0.1), np.zeros(3)])
    model.compile(SGD(0.05), keras.losses.Huber(), metrics=["mae"])
    return model


@pytest.mark.parametrize("column", [True, False])
def test_regression_of_one_number_means_what_it_means_in_keras(column):
    x = DIGITS[:100].reshape(-1, 4, 16)
    y = (LABELS[:100] / 9.0)[:, None] if column else LABELS[:100] / 9.0
    stacked = stack([regression()], 2)
    logs = train(stacked, x, y, 32, 2)
    history = regression().fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0).history
    assert logs[0] == pytest.approx({name: v[-1] for name, v in history.items()}, rel=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "cross-entropy"])
def test_losses_and_metrics_count_their_axes_from_the_rows(kind):
    def build():
        head = {"kernel_initializer": keras.initializers.HeNormal(seed=1)}
        if kind == "cosine":
            layers = [keras.layers.Dense(10, **head)]
            loss = keras.losses.CosineSimilarity(axis=1)
            metric = keras.metrics.CosineSimilarity(axis=1)
        else:
            layers = [keras.layers.Dense(40, **head), keras.layers.Reshape((10, 4))]
            layers.append(keras.layers.Softmax(axis=1))
            loss = keras.losses.CategoricalCrossentropy(axis=1)
            metric = keras.metrics.CategoricalCrossentropy(axis=1)
        model = keras.Sequential([keras.Input((64,)), *layers])
        model.compile(SGD(0.1), loss, metrics=[metric])
        return model

    x, y = DIGITS[:100], keras.utils.to_categorical(LABELS[:100], 10)
    y = y if kind == "cosine" else np.repeat(y[..., None], 4, axis=-1)
    logs = train(stack([build(), build()], 2), x, y, 32, 2)
    history = build().fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0).history
    assert logs[1] == pytest.approx({name: v[-1] for name, v in history.items()}, rel=1e-4)


class Own(keras.layers.Layer):
    def call(self, x):
        return x


def functional(*layers, shape=(8,), before=None, **compiled):
    layers = [*([before] if before else []), *layers]
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(1)])
    model.compile(**{"optimizer": SGD(0.1), "loss": "mse"} | compiled)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: functional(Own()), "is a Own, which is no layer of Keras or kerastools"),
        (
            lambda: functional(keras.layers.LSTM(3, dropout=0.1), shape=(2, 8)),
            "dropout in its cell",
        ),
        (
            lambda: functional(keras.layers.LSTM(3), shape=(2, 8), before=keras.layers.Masking()),
            "masks",
        ),
        (
            lambda: functional(keras.layers.Dense(2, activation=lambda x: x)),
            "activation that is not one of Keras",
        ),
        (lambda: functional(keras.layers.Dense(2, activity_regularizer="l2")), "activity reg"),
        (
            lambda: functional(keras.layers.Dense(2, kernel_regularizer="orthogonal_regularizer")),
            "OrthogonalRegularizer",
        ),
        (lambda: functional(keras.layers.Dense(2, kernel_constraint="unit_norm")), "UnitNorm"),
        (lambda: functional(keras.layers.Dense(2, dtype="float64")), "computes in float64"),
        (lambda: functional(optimizer="adam"), "the optimizer is keras's Adam"),
        (lambda: functional(optimizer=SGD(0.1, nesterov="exact")), "exact Nesterov"),
        (lambda: functional(optimizer=Adam(adaptive_clipnorm=1.0)), "adaptive_clipnorm"),
        (lambda: functional(loss="dice"), "not known to be a mean over rows"),
        (
            lambda: functional(optimizer=Adam(keras.optimizers.schedules.CosineDecay(0.1, 9))),
            "learning_rate is a function",
        ),
        (lambda: functional(optimizer=Adam(use_ema=True)), "use_ema"),
        (
            lambda: functional(loss=lambda a, b: keras.ops.mean(a - b)),
            "not known to be a mean over rows",
        ),
        (
            lambda: functional(loss=keras.losses.MeanSquaredError("sum")),
            "not known to be a mean over rows",
        ),
        (lambda: functional(metrics=[keras.metrics.AUC()]), "'auc.*' is not a mean over rows"),
    ],
)
def test_why_a_model_is_not_stacked(model, reason):
    assert re.search(reason, why_model_cannot_stack(model()) or "")


def test_recorded_training_argument_is_not_stacked_where_it_holds():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(x, training=False)))
    model.compile(SGD(), "mse")
    assert (why_model_cannot_stack(model) is not None) == RECORDED_TRAINING_HOLDS


@pytest.mark.parametrize("bound", [None, MaxNorm(0.1)])
@pytest.mark.parametrize("units", [80, 20])
def test_what_the_loss_does_not_move_stays_as_it_is(units, bound):
    """Without decay and bound, as in Keras; a kernel of 80 units is large, one of 20 is not."""

    def build(k):
        keras.utils.set_random_seed(k)
        inputs = keras.Input((64,))
        still = keras.layers.Dense(units, name="still", kernel_constraint=bound)(inputs)
        outputs = keras.layers.Dense(10, activation="softmax")(keras.ops.stop_gradient(still))
        model = keras.Model(inputs, outputs)
        model.compile(SGD(0.1, 0.9, weight_decay=0.1), "sparse_categorical_crossentropy")
        return model

    models = [build(k) for k in range(2)]
    before = [model.get_weights() for model in models]
    stacked = stack(models, 2)
    train(stacked, *DATA)
    alone = build(1)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        alone.fit(*DATA, 64, shuffle=False, verbose=0)
    for k in range(2):
        np.testing.assert_array_equal(weights_of(stacked, k)[0], before[k][0])
        assert np.abs(weights_of(stacked, k)[2] - before[k][2]).max() > 0.01
    for mine, own in zip(weights_of(stacked, 1), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, own, rtol=0, atol=1e-5)
