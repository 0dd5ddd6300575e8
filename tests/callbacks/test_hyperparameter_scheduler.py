import keras
import numpy as np
import pytest

from kerastools.callbacks import HyperparameterScheduler
from kerastools.optimizers import SGD, Adam

EIGHT_ROWS = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")


def model_with(optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


class Record(keras.callbacks.Callback):
    """Reads a number after each batch."""

    def __init__(self, name):
        super().__init__()
        self.name, self.values = name, []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(getattr(self.model.optimizer, self.name)))


def fit(model, *callbacks, **options):
    options = {"epochs": 3, "batch_size": 4, "verbose": 0} | options
    return model.fit(*EIGHT_ROWS, callbacks=list(callbacks), **options).history


def test_a_number_follows_its_function_of_the_epoch_and_stands_in_the_logs():
    record = Record("beta_1")
    scheduler = HyperparameterScheduler("beta_1", lambda epoch: 0.9 - 0.1 * epoch)
    history = fit(model_with(Adam(0.1)), scheduler, record)
    np.testing.assert_allclose(record.values, [0.9, 0.9, 0.8, 0.8, 0.7, 0.7], rtol=1e-6)
    np.testing.assert_allclose(history["beta_1"], [0.9, 0.8, 0.7], rtol=1e-6)


def test_steps_go_on_counting_in_the_next_fit():
    model, record = model_with(SGD(0.01, momentum=0.0)), Record("momentum")
    scheduler = HyperparameterScheduler("momentum", lambda step: 0.01 * step, per="batch")
    fit(model, scheduler, record, epochs=2)
    fit(model, scheduler, record, epochs=1)
    np.testing.assert_allclose(record.values, [0.01 * i for i in range(6)], rtol=1e-6)


def test_steps_are_updates_under_gradient_accumulation():
    seen = []
    scheduler = HyperparameterScheduler("learning_rate", lambda s: seen.append(s) or 0.1, "batch")
    model = model_with(SGD(0.1, gradient_accumulation_steps=2))
    for _ in range(2):
        fit(model, scheduler)
    batches = int(model.optimizer._iterations)
    assert seen == [batch // 2 for batch in range(batches)]


def test_the_scheduled_number_is_the_one_that_the_step_uses():
    """Against an optimizer that computes the same schedule inside its compiled step."""
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    outside, inside = model_with(SGD(0.1, momentum=0.5)), model_with(SGD(decay, momentum=0.5))
    fit(outside, HyperparameterScheduler("learning_rate", decay, per="batch"), shuffle=False)
    fit(inside, shuffle=False)
    for a, b in zip(outside.get_weights(), inside.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_kerass_own_learning_rate_can_be_scheduled():
    model = model_with(keras.optimizers.Adam(0.1))
    history = fit(model, HyperparameterScheduler("learning_rate", lambda epoch: 0.1 / (1 + epoch)))
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.05, 0.1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (keras.optimizers.Adam, "beta_1"),
        (Adam, "momentum"),
        (Adam, "clipnorm"),
        (lambda: SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)), "learning_rate"),
    ],
)
def test_a_number_that_would_not_act_is_refused_before_training(optimizer, name):
    model = model_with(optimizer())
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"cannot set '{name}' of this"):
        fit(model, HyperparameterScheduler(name, lambda epoch: 0.5))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_value_outside_its_interval_is_refused():
    with pytest.raises(ValueError, match=r"beta_1 to be a number in \[0, 1\)"):
        fit(model_with(Adam()), HyperparameterScheduler("beta_1", lambda epoch: 1.5))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="per='step'"):
        HyperparameterScheduler("beta_1", lambda step: 0.5, per="step")
    with pytest.raises(ValueError, match=r"function=0\.5"):
        HyperparameterScheduler("beta_1", 0.5)
