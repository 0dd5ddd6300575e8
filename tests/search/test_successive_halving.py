import keras_tuner
import numpy as np
import pytest

from kerastools.search import SuccessiveHalving
from kerastools.search._successive_halving import Rungs

pytestmark = pytest.mark.tensorflow  # keras-tuner's; no tensor of the backend is touched.


def test_rungs_are_powers_of_the_factor_below_the_last_epoch():
    assert SuccessiveHalving(3, 2).rungs(20) == [2, 6, 18]
    assert SuccessiveHalving(1.2, 1).rungs(4) == [1, 2, 3]
    assert SuccessiveHalving(2, 4).rungs(4) == []


@pytest.mark.parametrize("direction", ["min", "max"])
def test_of_n_at_a_rung_the_best_of_n_over_factor_stay(direction):
    """Against sorting: in every order of arrival, each is judged among those that have come."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        rungs = Rungs(SuccessiveHalving(3, 1), keras_tuner.Objective("score", direction))
        values = generator.permutation(11).astype(float)
        for n, value in enumerate(values, 1):
            stopped = rungs.arrive(1, 9, {str(n): value})
            order = sorted(values[:n], reverse=direction == "max")
            assert (stopped == []) == (value in order[: max(1, n // 3)])


def test_those_who_come_together_are_compared_together_and_nan_is_last():
    rungs = Rungs(SuccessiveHalving(2, 1), keras_tuner.Objective("loss", "min"))
    assert rungs.arrive(1, 9, {"a": 3.0, "b": 1.0, "c": np.nan, "d": 2.0}) == ["a", "c", "d"]
    assert rungs.arrive(2, 9, {"c": np.nan}) == ["c"]
    assert rungs.arrive(3, 9, {"a": 9.0}) == []
    assert Rungs(None, rungs.objective).arrive(1, 9, {"a": np.nan}) == []


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="factor=1"):
        SuccessiveHalving(factor=1)
    with pytest.raises(ValueError, match=r"min_epochs=0\.5"):
        SuccessiveHalving(min_epochs=0.5)
