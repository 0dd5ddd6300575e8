"""Activations whose units can lose their slope, and how near to a bound that is."""

# The bounds of activations that saturate, and those that can leave a unit at zero for good.
BOUNDED = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
}
RECTIFIED = ("relu", "relu6")

# An output this close to a bound, as a fraction of the range: the slope of the logistic function is
# below a fifth of its largest there, as is that of tanh.
_MARGIN = {(0.0, 1.0): 0.05, (-1.0, 1.0): 0.025}


def saturated_beyond(activation: str) -> tuple[float, float] | None:
    """Returns (low, high) outside of which an activation is saturated; `None` without bounds."""
    bounds = BOUNDED.get(activation)
    if bounds is None:
        return None
    low, high = bounds
    margin = _MARGIN[bounds] * (high - low)
    return low + margin, high - margin
