"""The picture of a schedule: the loss, and below it which layer trained when."""

from collections.abc import Sequence
from typing import Any

from kerastools._core.plotting import axes_for, finished, grid_for

# Up to so many layers are named on the axis, of more a few.
_NAMED = 24
# The number of a phase has room over so much of the axis.
_SEEN = 0.02


def plot_phases(
    logs: Sequence[tuple[int, dict[str, float]]],
    transitions: Sequence[Any],
    layers: Sequence[str],
    target: Any = None,
) -> Any:
    """Draws losses over epochs, phases, and the layers that train in each; returns the figure."""
    height = min(6.0, 1.2 + 0.2 * len(layers))
    axes = axes_for(target, "FreezeSchedule.plot", (8, 3 + height))
    figure = axes.figure
    above, below = grid_for(axes, 2, height_ratios=(3, height)).subplots(sharex=True)

    # An epoch e spans e to e + 1 on the axis; its values are known at its end.
    for name, style in (("loss", "o-"), ("val_loss", "s--")):
        points = [(epoch + 1, values[name]) for epoch, values in logs if name in values]
        if points:
            above.plot(*zip(*points, strict=True), style, markersize=4, label=name)
    above.set_ylabel("loss")
    above.legend()

    end = max(epoch for epoch, _ in logs) + 1
    begins = [_place(t) for t in transitions]
    over = {"transform": above.get_xaxis_transform(), "va": "bottom", "fontsize": 8}
    above.text(begins[0], 1.02, "phase ", **over, ha="right")
    for i, (transition, begin) in enumerate(zip(transitions, begins, strict=True)):
        for panel in (above, below):
            panel.axvline(begin, color="gray", linewidth=0.8)
        until = begins[i + 1] if i + 1 < len(begins) else end
        if until - begin > _SEEN * (end - begins[0]):
            middle = (begin + until) / 2, 1.02
            above.text(*middle, str(transition.phase + 1), **over, ha="center")
        rows = [row for row, layer in enumerate(layers) if layer in transition.trained]
        below.barh(rows, until - begin, left=begin, height=0.8, color=f"C{i % 10}", alpha=0.7)

    step = -(-len(layers) // _NAMED)
    named = range(0, len(layers), step)
    below.set_yticks(named, [layers[i] for i in named], fontsize=7)
    below.set_ylim(-0.6, len(layers) - 0.4)
    below.set_ylabel("layers that train")
    below.set_xlabel("epochs")
    below.set_xlim(min(begins), end)
    below.xaxis.get_major_locator().set_params(integer=True)
    return finished(figure, target)


def _place(transition: Any) -> float:
    """Returns where a phase begins on the axis of epochs."""
    return transition.epoch + transition.step / (transition.num_steps or 1)
