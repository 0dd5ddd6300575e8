import keras_tuner
import numpy as np
import pytest

from kerastools.search import betas, dropout, learning_rate, momentum

pytestmark = pytest.mark.tensorflow


def draws(ask, count=300):
    """Returns what `ask` answers for random values of the hyperparameters it asks for."""
    oracle = keras_tuner.oracles.RandomSearchOracle("loss", seed=1)
    space = oracle.get_space()
    ask(space)
    answers = []
    for seed in range(count):
        hp = space.copy()
        hp.values = {h.name: h.random_sample(seed) for h in space.space}
        answers.append(ask(hp))
    return np.array(answers)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("dense", 0.1, 0.5), ("recurrent", 0.2, 0.3), ("convolutional", 0.4, 0.5)],
)
def test_dropout_covers_the_range_of_its_kind_of_net(kind, low, high):
    rates = draws(lambda hp: dropout(hp, kind=kind))
    assert (rates.min(), rates.max()) == pytest.approx((low, high))


def test_momentum_is_even_in_the_logarithm_of_what_it_forgets():
    forgets = 1 - draws(momentum)
    assert forgets.min() > 0.0099
    assert forgets.max() < 0.501
    # The median of a log-uniform range is its geometric mean, √(0.01 · 0.5) = 0.071.
    assert np.median(forgets) == pytest.approx(np.sqrt(0.01 * 0.5), rel=0.25)


def test_betas_stay_in_their_ranges():
    beta_1, beta_2 = draws(betas).T
    assert 0.5 <= beta_1.min() < 0.6
    assert 0.95 < beta_1.max() <= 0.98
    assert 0.9 <= beta_2.min() < 0.95
    assert 0.999 < beta_2.max() <= 0.9999


def test_learning_rate_covers_its_decades():
    rates = np.log10(draws(learning_rate))
    assert -4 <= rates.min() < -3.8
    assert -1.2 < rates.max() <= -1


@pytest.mark.parametrize(
    "ask",
    [
        lambda hp: dropout(hp, kind="liquid"),
        lambda hp: momentum(hp, low=0.9, high=1.0),
        lambda hp: betas(hp, beta_1=(0.9, 0.5)),
        lambda hp: learning_rate(hp, low=0.0),
    ],
)
def test_bad_ranges_are_refused_before_anything_is_asked(ask):
    hp = keras_tuner.HyperParameters()
    with pytest.raises(ValueError, match="needs"):
        ask(hp)
    assert hp.space == []
