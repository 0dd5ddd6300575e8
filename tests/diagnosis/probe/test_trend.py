import numpy as np
import pytest

from kerastools.diagnosis._probe.trend import trend


def test_the_slope_of_a_geometric_series_is_its_ratio():
    t = trend(3.0 * 0.5 ** np.arange(10))
    assert t.slope == pytest.approx(-np.log10(2))
    assert t.decades == pytest.approx(-9 * np.log10(2))
    assert t.falls(0.3, 2.0)
    assert not t.falls(0.31, 2.0)
    assert not t.falls(0.3, 3.0)
    assert not t.rises(0.0, 0.0)


def test_one_layer_of_another_scale_makes_no_trend():
    assert abs(trend([1e-4, 1, 1, 1, 1]).slope) < 1e-12
    assert abs(trend([1, 1, 1, 1, 1e9]).slope) < 1e-12


def test_zero_counts_as_the_smallest_number():
    assert trend([1, 1e-15, 1e-30, 0.0, 0.0]).falls(1.0, 20.0)


def test_few_or_missing_figures_have_no_trend():
    for values in ([1, 10, 100], [], [1, np.nan, 100, 1000], [1, None, 100, 1000]):
        assert trend(values).slope == 0
