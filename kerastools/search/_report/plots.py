"""Plots of a search."""

from typing import Any

import numpy as np

from kerastools._core.plotting import axes_for, finished, grid_for

_COLUMNS = 3


def plot_search(report: Any, target: Any = None) -> Any:
    """Plots best score so far, parallel coordinates and slices; returns the figure."""
    ranked = report.ranked()
    if not ranked:
        raise ValueError("SearchReport.plot needs a finished trial. There is none.")
    scales = [s for s in report._by_importance() if any(s.asked in t.values for t in ranked)]
    rows = -(-len(scales) // _COLUMNS)
    whole = axes_for(target, "SearchReport.plot", (12, 7.2 + 2.6 * rows))
    figure = whole.figure
    grid = grid_for(whole, 2 + rows, _COLUMNS, height_ratios=[3.2, 4.0, *[2.6] * rows])
    _draw_curve(figure.add_subplot(grid[0, :]), report)
    _draw_parallel(figure, figure.add_subplot(grid[1, :]), report, scales)
    first = None
    for i, scale in enumerate(scales):
        axes = figure.add_subplot(grid[2 + i // _COLUMNS, i % _COLUMNS], sharey=first)
        first = first or axes
        _draw_slice(axes, report, scale)
        if i % _COLUMNS == 0:
            axes.set_ylabel(report.objective)
    return finished(figure, target)


def _limits(report: Any) -> tuple[float, float]:
    """Returns the limits of the score axis, without the worst tenth of the trials."""
    scores = np.array([t.score for t in report.ranked()])  # The best first.
    worst = scores[int(0.9 * (len(scores) - 1))]
    margin = 0.06 * abs(worst - scores[0]) or 0.01 * abs(worst) or 1.0
    low, high = sorted((float(scores[0]), float(worst)))
    return low - margin, high + margin


def _draw_curve(axes: Any, report: Any) -> None:
    low, high = _limits(report)
    numbers = [i for i, t in enumerate(report.trials, 1) if t.score is not None]
    scores = np.array([t.score for t in report.trials if t.score is not None])
    accumulate = np.minimum if report.direction == "min" else np.maximum
    axes.plot(numbers, np.clip(scores, low, high), "o", color="tab:gray", alpha=0.6, label="trial")
    axes.step(
        numbers, accumulate.accumulate(scores), where="post", color="tab:blue", label="best so far"
    )
    failed = [i for i, t in enumerate(report.trials, 1) if t.score is None]
    if failed:
        axes.plot(failed, [low] * len(failed), "x", color="tab:red", label="failed", clip_on=False)
    axes.set(xlabel="finished trials", ylabel=report.objective, ylim=(low, high))
    best = report.best
    axes.set_title(
        f"Best {report.objective}: {best.score:.4g}, trial {best.trial}; the worst tenth is clipped"
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="best")


def _draw_parallel(figure: Any, axes: Any, report: Any, scales: list[Any]) -> None:
    import matplotlib as mpl

    low, high = _limits(report)
    colours = mpl.colormaps["viridis_r" if report.direction == "max" else "viridis"]
    shade = mpl.colors.Normalize(low, high)
    worst_first = report.ranked()[::-1]
    for trial in worst_first:
        positions = [
            s.position(trial.values[s.asked]) if s.asked in trial.values else np.nan for s in scales
        ]
        best = trial is worst_first[-1]
        style = {"lw": 3.5, "alpha": 1.0} if best else {"lw": 1.2, "alpha": 0.6}
        axes.plot(positions, "o-", color=colours(shade(trial.score)), markersize=4, **style)
    for i, scale in enumerate(scales):
        axes.axvline(i, color="black", lw=0.6)
        for position, label in scale.ticks():
            axes.annotate(
                label,
                (i, position),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.8},
            )
    axes.set_xticks(range(len(scales)), [s.name for s in scales])
    axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.25, len(scales) - 0.5))
    axes.set_title("Each line is a trial; the thick one is the best")
    axes.spines[:].set_visible(False)
    shades = mpl.cm.ScalarMappable(shade, colours)
    figure.colorbar(shades, ax=axes, label=report.objective, pad=0.01)


def _draw_slice(axes: Any, report: Any, scale: Any) -> None:
    low, high = _limits(report)
    own = [t for t in report.ranked() if scale.asked in t.values]
    positions = [scale.position(t.values[scale.asked]) for t in own]
    scores = np.clip([t.score for t in own], low, high)
    axes.scatter(positions, scores, s=22, color="tab:blue", alpha=0.6, clip_on=False)
    best = report.best
    if scale.asked in best.values:
        position = scale.position(best.values[scale.asked])
        axes.plot(position, best.score, "*", color="black", markersize=14, zorder=3)
    ticks = scale.ticks()
    axes.set_xticks([position for position, _ in ticks], [label for _, label in ticks])
    share = report.importance.get(scale.name)
    axes.set_title(scale.name + ("" if share is None else f" (importance {share:.0%})"))
    axes.set(xlim=(-0.05, 1.05), ylim=(low, high))
    axes.grid(alpha=0.3)
