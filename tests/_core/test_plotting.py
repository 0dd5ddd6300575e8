import pytest

from kerastools._core.plotting import axes_for, finished, grid_for

figures = pytest.importorskip("matplotlib.figure")


def test_a_path_is_written_and_axes_are_drawn_on(tmp_path):
    new = axes_for(None, "plot")
    assert finished(new.figure, None) is new.figure
    finished(new.figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    given = figures.Figure().subplots()
    assert axes_for(given, "plot") is given
    assert finished(given.figure, given) is given.figure


@pytest.mark.parametrize("with_spec", [True, False])
def test_panels_lie_where_the_axes_were(with_spec):
    figure = figures.Figure()
    place = (0.5, 0.1, 0.4, 0.8)
    axes = figure.subplots(1, 2)[1] if with_spec else figure.add_axes(place)
    box = axes.get_position()
    panels = grid_for(axes, 2, height_ratios=(3, 1)).subplots()
    assert axes not in figure.axes
    above, below = (panel.get_position() for panel in panels)
    assert above.x0 == pytest.approx(box.x0)
    assert (above.y1, below.y0) == pytest.approx((box.y1, box.y0))
    assert above.height > 2 * below.height
