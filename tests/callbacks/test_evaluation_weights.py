import keras
import numpy as np
import pytest
from keras import ops

from kerastools import KerastoolsNotice
from kerastools.callbacks import EvaluationWeights
from kerastools.optimizers import SGD, Lookahead, ScheduleFreeAdamW


def data():
    rng = np.random.default_rng(4)
    return np.float32(rng.normal(size=(32, 3))), np.float32(rng.normal(size=(32, 1)))


def exact(optimizer=None):
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer or SGD(0.05, momentum=0.9, nesterov="exact"), "mse")
    return model


def fit(model, epochs, *callbacks, **options):
    return model.fit(
        *data(),
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **options,
    )


def state(model):
    return [ops.convert_to_numpy(v) for v in model.variables + model.optimizer.variables]


@pytest.mark.parametrize(
    "make", [lambda: None, lambda: ScheduleFreeAdamW(0.05, warmup_steps=3)], ids=["SGD", "free"]
)
def test_fits_with_evaluations_between_are_one_fit_to_the_bit(make):
    plain, swapped = exact(make()), exact(make())
    fit(plain, 6)
    fit(swapped, 2, EvaluationWeights(), validation_data=data())
    swapped.evaluate(*data(), verbose=0, callbacks=[EvaluationWeights()])
    fit(swapped, 3, EvaluationWeights(), validation_data=data())
    swapped.evaluate(*data(), verbose=0)
    fit(swapped, 1, EvaluationWeights())
    swapped.optimizer.to_training()
    for a, b in zip(state(plain), state(swapped), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_evaluation_in_the_middle_of_an_epoch_leaves_the_training_as_it_was():
    class InTheMiddle(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                losses.append(self.model.evaluate(*data(), verbose=0, callbacks=[callback]))

    losses, callback = [], EvaluationWeights()
    plain, interrupted = exact(), exact()
    fit(plain, 2, EvaluationWeights(), validation_data=data())
    fit(interrupted, 2, callback, InTheMiddle(), validation_data=data())
    assert len(losses) == 2
    for a, b in zip(state(plain), state(interrupted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_checkpoint_and_the_end_see_the_evaluation_weights(tmp_path):
    """Each is compared with θ = φ − d of a run without the callback."""
    wanted = []
    twin = exact()
    for _ in range(3):
        fit(twin, 1)
        phi, d = twin.get_weights(), twin.optimizer._lookahead_slots
        wanted.append([w - ops.convert_to_numpy(s) for w, s in zip(phi, d, strict=True)])

    seen = exact()
    path = str(tmp_path / "{epoch}.keras")
    history = fit(
        seen, 3, EvaluationWeights(), keras.callbacks.ModelCheckpoint(path), validation_data=data()
    ).history
    x, y = data()
    for epoch, (kernel, bias) in enumerate(wanted, start=1):
        saved = keras.models.load_model(path.format(epoch=epoch))
        np.testing.assert_allclose(saved.get_weights()[0], kernel, rtol=1e-6)
        assert saved.optimizer.at_evaluation
        loss = np.mean((x @ kernel + bias - y) ** 2)
        assert history["val_loss"][epoch - 1] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(seen.get_weights()[0], wanted[-1][0], rtol=1e-6)


def test_a_checkpoint_is_trained_on_from_the_training_weights(tmp_path):
    straight, saved = exact(), exact()
    fit(straight, 4)
    fit(saved, 2, EvaluationWeights())
    saved.save(tmp_path / "half.keras")
    resumed = keras.models.load_model(tmp_path / "half.keras")
    fit(resumed, 2, EvaluationWeights())
    resumed.optimizer.to_training()
    for a, b in zip(state(straight), state(resumed), strict=True):
        # (φ + u) − u rounds.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_evaluate_alone_puts_back_what_was_there():
    model = exact()
    fit(model, 1)
    before = state(model)
    with_callback = model.evaluate(*data(), verbose=0, callbacks=[EvaluationWeights()])
    assert with_callback != model.evaluate(*data(), verbose=0)
    for a, b in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_restored_best_weights_are_evaluation_weights():
    model = exact()
    best = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    history = fit(model, 8, EvaluationWeights(), best, validation_data=data()).history
    loss = model.evaluate(*data(), verbose=0)
    assert loss == pytest.approx(min(history["val_loss"]), rel=1e-5)


def test_nothing_happens_where_evaluation_and_training_weights_are_the_same():
    for make in (lambda: SGD(0.1, 0.9, nesterov=True), lambda: keras.optimizers.SGD(0.1)):
        plain, watched = exact(make()), exact(make())
        fit(plain, 2, validation_data=data())
        fit(watched, 2, EvaluationWeights(), validation_data=data())
        for a, b in zip(state(plain), state(watched), strict=True):
            np.testing.assert_array_equal(a, b)


def test_kerass_own_moving_average_is_refused():
    model = exact(keras.optimizers.SGD(0.05, 0.9, use_ema=True))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"SGD of Keras's own with use_ema=True.*SwapEMA"):
        fit(model, 1, EvaluationWeights())
    # The end of every fit would have put the average in.
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_optimizer_may_stand_inside_a_loss_scale_optimizer():
    inner = SGD(0.05, momentum=0.9, nesterov="exact")
    model = exact(keras.optimizers.LossScaleOptimizer(inner))
    fit(model, 2, EvaluationWeights())
    assert inner.at_evaluation


@pytest.mark.parametrize("maximum", [None, 0.4])
def test_a_moving_average_is_swapped_in_and_out_and_follows_the_constrained_weights(maximum):
    def make():
        keras.utils.set_random_seed(3)
        bound = None if maximum is None else keras.constraints.MaxNorm(maximum)
        model = keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(3, kernel_constraint=bound, use_bias=False)]
        )
        model.compile(SGD(0.05, 0.9, use_ema=True, ema_momentum=0.8), "mse")
        return model

    x = np.random.default_rng(1).normal(size=(24, 2)).astype("float32")
    y = np.float32(x @ np.array([[1.0, -2, 0], [3, 0.5, 1]]))
    # One batch an epoch: between epochs every backend holds the weights where they can be read.
    options = {"batch_size": 24, "shuffle": False, "verbose": 0}
    once, twice, seen = make(), make(), []
    read = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(once.get_weights()[0])
    )
    once.fit(x, y, epochs=12, callbacks=[read, EvaluationWeights()], **options)
    twice.fit(x, y, epochs=6, callbacks=[EvaluationWeights()], **options)
    twice.evaluate(x, y, verbose=0)
    twice.fit(x, y, epochs=12, initial_epoch=6, callbacks=[EvaluationWeights()], **options)
    for a, b in zip(state(once), state(twice), strict=True):
        np.testing.assert_array_equal(a, b)

    average = seen[0]
    for weights in seen[1:]:
        average = 0.8 * average + 0.2 * weights
        if maximum is not None:
            lengths = np.linalg.norm(average, axis=0)
            average = average * np.minimum(1, maximum / lengths)
    np.testing.assert_allclose(once.get_weights()[0], average, rtol=1e-5, atol=1e-6)
    if maximum is not None:
        assert np.linalg.norm(once.get_weights()[0], axis=0).max() <= maximum * (1 + 1e-5)


def test_with_accumulated_gradients_the_average_moves_once_per_update():
    rng = np.random.default_rng(1)
    x, y = np.float32(rng.normal(size=(32, 2))), np.float32(rng.normal(size=(32, 1)))
    averages = []
    for batch, steps in ((8, None), (2, 4)):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        optimizer = SGD(0.1, 0.9, use_ema=True, gradient_accumulation_steps=steps)
        model.compile(optimizer, "mse")
        model.fit(x, y, batch, epochs=3, shuffle=False, verbose=0, callbacks=[EvaluationWeights()])
        averages.append(model.get_weights())
    for a, b in zip(*averages, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["evaluate", "save", "validation"])
def test_a_model_says_once_that_it_is_evaluated_or_saved_at_the_training_weights(way, tmp_path):
    x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")

    def make():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(Lookahead(SGD(0.1)), "mse", run_eagerly=True)
        return model

    act = {
        "evaluate": lambda model: model.evaluate(x, y, verbose=0),
        "save": lambda model: model.save(tmp_path / "model.keras"),
        "validation": lambda model: model.fit(x, y, validation_data=(x, y), verbose=0),
    }[way]
    model = make()
    model.fit(x, y, verbose=0)
    with pytest.warns(KerastoolsNotice, match="at the weights that its Lookahead trains"):
        act(model)
    act(model)  # Warnings are errors.
    assert not {"evaluate", "save", "export"} & vars(model).keys()
    model = make()
    model.fit(x, y, verbose=0, callbacks=[EvaluationWeights()])
    act(model)
    model = make()
    model.fit(x, y, verbose=0)
    model.optimizer.to_evaluation()
    act(model)
