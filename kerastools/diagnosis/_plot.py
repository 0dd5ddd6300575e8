"""Pictures of the signals: curves over the depth of the model, and a heat map over time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerastools._core.plotting import axes_for, finished
from kerastools.diagnosis._layer_signal import LayerSignal

# Up to so many layers are named on the axis, more are not.
_NAMED, _NAMED_IN_MAP = 24, 30


def plot_signals(name: str, signals: Sequence[LayerSignal], target: Any = None) -> Any:
    """Draws `signals`; returns the figure."""
    axes = axes_for(target, "Diagnosis.plot")
    layers = [s for s in signals if s.has_kernel]
    depth = np.arange(1, len(layers) + 1)
    curves = {
        "forward: mean squared output": ([s.second_moment for s in layers], "o-", "tab:blue"),
        "backward: mean |gradient| of the kernel": (
            [s.gradient_mean for s in layers],
            "s--",
            "tab:orange",
        ),
    }
    for label, (values, style, colour) in curves.items():
        figures = np.array(values, "float64")
        # A log scale has no place for zero, NaN and infinity: they leave a gap.
        figures[~(np.isfinite(figures) & (figures > 0))] = np.nan
        axes.semilogy(depth, figures, style, color=colour, markersize=4, label=label)
    if len(layers) <= _NAMED:
        axes.set_xticks(depth, [s.layer for s in layers], rotation=45, ha="right", fontsize=8)
    else:
        axes.set_xlabel("layer, from input to output")
    axes.set_title(f'Signals of "{name}" in one training step')
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    return finished(axes.figure, target)


def plot_heat_map(
    name: str, steps: Sequence[int], layers: Sequence[str], values: np.ndarray, target: Any = None
) -> Any:
    """Draws `values` (looks, layers); returns the figure."""
    axes = axes_for(target, "SignalMonitor.plot")
    shown = [i for i in range(len(layers)) if not np.isnan(values[:, i]).all()]
    picture = values[:, shown].T.astype("float64")
    is_fraction = name in ("saturated", "dead")
    if not is_fraction:
        with np.errstate(divide="ignore", invalid="ignore"):
            picture = np.log10(picture)
    picture = np.ma.masked_invalid(picture)
    image = axes.imshow(picture, aspect="auto", interpolation="nearest")
    if is_fraction:
        image.set_clim(0, 1)
    places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 8)).astype(int))
    axes.set_xticks(places, [str(steps[i]) for i in places])
    if len(shown) <= _NAMED_IN_MAP:
        axes.set_yticks(range(len(shown)), [layers[i] for i in shown])
    axes.set(xlabel="step", ylabel="layer", title=name.replace("_", " "))
    label = "fraction" if is_fraction else "log₁₀"
    axes.figure.colorbar(image, ax=axes, label=label)
    return finished(axes.figure, target)
