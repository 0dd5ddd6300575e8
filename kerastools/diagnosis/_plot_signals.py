"""The heat map of a figure, layers over time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerastools._core.plotting import axes_for, finished

# Up to so many layers are named on the axis.
_NAMED = 30


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
    if len(shown) <= _NAMED:
        axes.set_yticks(range(len(shown)), [layers[i] for i in shown])
    axes.set(xlabel="step", ylabel="layer", title=name.replace("_", " "))
    label = "fraction" if is_fraction else "log₁₀"
    axes.figure.colorbar(image, ax=axes, label=label)
    return finished(axes.figure, target)
