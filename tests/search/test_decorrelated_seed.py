import keras_tuner
import pytest

from kerastools.search import decorrelated_seed

pytestmark = pytest.mark.tensorflow


def configurations(seed, trials=10):
    oracle = keras_tuner.oracles.RandomSearchOracle("loss", max_trials=trials, seed=seed)
    hp = oracle.get_space()
    for name in "abcd":
        hp.Float(name, 0, 1)
    oracle.update_space(hp)
    return {tuple(oracle._random_values().values()) for _ in range(trials)}


def test_neighbouring_seeds_share_nothing_where_plain_ones_share_nine_of_ten():
    assert len(configurations(5) & configurations(9)) == 9
    assert configurations(decorrelated_seed(5)) & configurations(decorrelated_seed(9)) == set()


def test_seed_zero_repeats_itself():
    assert configurations(decorrelated_seed(0)) == configurations(decorrelated_seed(0))
    assert len({decorrelated_seed(seed) for seed in range(1000)} - {0}) == 1000


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed=-1"):
        decorrelated_seed(-1)
