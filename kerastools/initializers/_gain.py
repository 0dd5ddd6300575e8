"""The factor that an activation's weights need, worked out by quadrature."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.graph.activations import activation_name

# Nodes on each half of the line; the weight beyond ±12 standard deviations is below 1e-31.
_NODES = 200
_REACH = 12.0

# In ln q; wide enough for float32, and a central difference errs by its square.
_STEP = 0.02


def gain(activation: str | Callable[[Any], Any] | keras.layers.Layer | None) -> float:
    """Returns the factor that keeps the second moment of a signal through `activation`.

    With weights of variance gain² / fan_in, a layer whose inputs come out of the same activation
    has pre-activations z ~ N(0, 1) again, where

        gain = 1 / √E[φ(z)²],   z ~ N(0, 1)

    It is √2 for ReLU, which is He's scheme, and 1 for SELU, which is LeCun's. Use it for an
    activation that no scheme names, as `VarianceScaling(scale=gain(f) ** 2, mode="fan_in")`.

    The fixed point is not always stable. For ReLU every scale is kept, SELU and tanh return to
    variance 1, but with GELU, SiLU and Mish a deviation grows from layer to layer, by a factor of
    1.1 to 1.2 each, so that no gain holds in deep nets; use a normalising layer or
    `kerastools.calibration.calibrate` there.

    Args:
        activation: Name, function or layer, element by element; `None` is linear. A function gets
            a float32 tensor of shape (n,), a layer one of shape (n, 1).

    Returns:
        The gain, to about six digits.

    Raises:
        ValueError: If the second moment is zero or not finite, or the shape changes.

    Example:

    >>> import keras
    >>> [round(gain(name), 4) for name in ("linear", "relu", "selu", "gelu")]
    [1.0, 1.4142, 1.0, 1.5335]
    >>> round(gain(keras.layers.LeakyReLU(negative_slope=0.2)), 4)
    1.3868

    Reference: He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015.
    """
    return 1 / math.sqrt(_second_moment(activation))


def stability(activation: str | Callable[[Any], Any] | keras.layers.Layer | None) -> float:
    """Returns by what factor a small deviation of the second moment grows from layer to layer.

    With weights of variance gain² / fan_in the second moment q of the pre-activations is kept at
    q = 1; beside it, q′ = E[φ(√q z)²] / E[φ(z)²], and a relative deviation is multiplied by

        d ln q′ / d ln q  at q = 1

    in each layer. Below 1 the fixed point draws the signal back (tanh, SELU), at 1 every scale is
    kept (ReLU), above 1 it is left for good: over 50 layers 1.1 makes 100 of a deviation of 1. Use
    it before you trust `gain` in a deep net without normalisation.

    Args:
        activation: As in `gain`.

    Returns:
        The factor, to about four digits.

    Raises:
        ValueError: As in `gain`.

    Example:

    >>> [round(stability(name), 2) for name in ("relu", "tanh", "gelu", "silu", "mish")]
    [1.0, 0.46, 1.14, 1.17, 1.08]

    Reference: Schoenholz, Gilmer, Ganguli and Sohl-Dickstein, "Deep information propagation", ICLR
    2017.
    """
    low, high = (_second_moment(activation, math.exp(h)) for h in (-_STEP, _STEP))
    return (math.log(high) - math.log(low)) / (2 * _STEP)


def _second_moment(activation: Any, q: float = 1.0) -> float:
    """Returns E[φ(√q z)²] for z ~ N(0, 1), by Gauss-Legendre on each side of 0, where kinks lie."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    half = (nodes + 1) * _REACH / 2
    z = np.concatenate([-half[::-1], half])
    weight = np.concatenate([weights[::-1], weights]) * _REACH / 2
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    outputs = _apply(activation, math.sqrt(q) * z).astype("float64")
    moment = float(np.sum(weight * density * outputs**2))
    if not (math.isfinite(moment) and moment > 0):
        raise ValueError(
            f"gain needs an activation with a finite second moment above 0 on normal inputs. "
            f"Received {activation_name(activation)!r}, whose second moment is {moment}."
        )
    return moment


def _apply(activation: Any, z: np.ndarray) -> np.ndarray:
    column = isinstance(activation, keras.layers.Layer)
    function = activation if column else keras.activations.get(activation)
    inputs = ops.convert_to_tensor(z[:, None] if column else z, "float32")
    outputs = ops.convert_to_numpy(function(inputs))
    if outputs.shape != tuple(inputs.shape):
        raise ValueError(
            f"gain needs an activation that works element by element. Received "
            f"{activation_name(activation)!r}, which made shape {outputs.shape} of "
            f"{tuple(inputs.shape)}."
        )
    return outputs.reshape(z.shape)
