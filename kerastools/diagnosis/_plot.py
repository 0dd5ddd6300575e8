"""The picture of the signals: one curve forward, one backward, over the depth of the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kerastools._core.plotting import axes_for, finished
from kerastools.diagnosis._layer_signal import LayerSignal

# Up to so many layers are named on the axis, more are numbered.
_NAMED = 24


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
