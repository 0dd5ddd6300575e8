import keras
import numpy as np
import pytest

from kerastools.callbacks import OneCycle
from kerastools.optimizers import SGD, Adagrad, Adam


def fitted(optimizer, cycle, epochs=10, data=None, **options):
    """Returns learning rate and momentum (or β₁) of every step."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    name = "momentum" if hasattr(optimizer, "momentum") else "beta_1"
    seen = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            own = self.model.optimizer
            seen.append([float(own.learning_rate), float(getattr(own, name, 0.0))])

    data = (np.ones((8, 2)), np.ones((8, 1))) if data is None else data
    options = {"batch_size": 4, "verbose": 0} | options
    model.fit(*data, epochs=epochs, callbacks=[cycle, Record()], **options)
    return np.array(seen).T


def test_rate_rises_and_falls_and_momentum_goes_against_it():
    rates, momenta = fitted(SGD(0.1, momentum=0.9), OneCycle(0.5, (0.95, 0.85)))
    assert len(rates) == 20
    assert rates[[0, 5, 19]] == pytest.approx([0.5 / 25, 0.5, 0.5e-5], rel=1e-5)
    assert momenta[[0, 5, 19]] == pytest.approx([0.95, 0.85, 0.95], rel=1e-6)
    assert (np.diff(rates[:6]) > 0).all()
    assert (np.diff(rates[5:]) < 0).all()
    # Half-way down the wave stands half-way between its ends.
    assert rates[12] == pytest.approx((0.5 + 0.5e-5) / 2, rel=1e-5)
    # The same wave for both: momentum is a linear function of the rate on each side.
    assert np.corrcoef(rates[:6], momenta[:6])[0, 1] == pytest.approx(-1)
    assert np.corrcoef(rates[5:], momenta[5:])[0, 1] == pytest.approx(-1)


def test_adam_cycles_beta_1():
    _, betas = fitted(Adam(0.1), OneCycle(0.01))
    assert betas[[0, 5, 19]] == pytest.approx([0.95, 0.85, 0.95], rel=1e-6)


def test_optimizers_without_a_live_momentum_keep_theirs():
    _, momenta = fitted(keras.optimizers.SGD(0.1, momentum=0.9), OneCycle(0.1))
    assert set(momenta) == {0.9}
    _, momenta = fitted(SGD(0.1, momentum=0.5), OneCycle(0.1, momentum=None))
    assert set(momenta) == {0.5}


def test_training_that_goes_on_goes_on_in_the_cycle():
    whole, _ = fitted(SGD(0.1), OneCycle(0.5))
    second, _ = fitted(SGD(0.1), OneCycle(0.5), initial_epoch=6)
    np.testing.assert_array_equal(whole[12:], second)


def test_what_cannot_be_cycled_is_refused_before_training():
    with pytest.raises(ValueError, match="OneCycle cannot set 'momentum' of this Adagrad"):
        fitted(Adagrad(0.1), OneCycle(0.1, (0.95, 0.85)))
    with pytest.raises(ValueError, match="OneCycle cannot set 'learning_rate'"):
        fitted(SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)), OneCycle(0.1))


def test_unknown_number_of_steps_is_refused():
    def rows():
        while True:
            yield np.ones((4, 2)), np.ones((4, 1))

    with pytest.raises(ValueError, match="steps_per_epoch"):
        fitted(SGD(0.1), OneCycle(0.1), data=(rows(),), batch_size=None, shuffle=False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_learning_rate": 0},
        {"rising": 1.0},
        {"start_divisor": 0.5},
        {"momentum": (0.85, 0.95)},
        {"momentum": (0.9,)},
    ],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=f"OneCycle needs .*{next(iter(arguments))}"):
        OneCycle(**arguments)


def test_a_cycle_prints_as_a_table():
    text = str(OneCycle(0.5, momentum=None, start_divisor=10))
    assert text.splitlines()[0] == "OneCycle"
    assert [line.split() for line in text.splitlines()[3:]] == [
        ["0", "0.05", "-"],
        ["0.3", "0.5", "-"],
        ["1", "5e-06", "-"],
    ]
