"""Where a plot is drawn: on a new figure, into a file, or on axes of the caller's."""

from typing import Any


def axes_for(target: Any, caller: str, size: tuple[float, float] = (8, 4.5)) -> Any:
    """Returns the axes to draw on: `target` if it is matplotlib axes, else those of a new figure.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib. Install it with pip install 'kerastools[plot]'."
        ) from error
    return target if isinstance(target, Axes) else Figure(size, layout="constrained").subplots()


def grid_for(axes: Any, rows: int, columns: int = 1, **arguments: Any) -> Any:
    """Returns a grid of `rows` and `columns` in place of `axes`, for a plot of several panels."""
    figure, spec, box = axes.figure, axes.get_subplotspec(), axes.get_position()
    axes.remove()
    if spec is not None:
        return spec.subgridspec(rows, columns, **arguments)
    sides = {"left": box.x0, "right": box.x1, "bottom": box.y0, "top": box.y1}
    return figure.add_gridspec(rows, columns, **sides, **arguments)


def finished(figure: Any, target: Any) -> Any:
    """Returns `figure`, written to `target` if that is a path."""
    if target is not None and not hasattr(target, "get_subplotspec"):
        figure.savefig(target, dpi=150)
    return figure
