"""The figures of one layer in one training step."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kerastools._core.graph.activations import activation_name, own_activation
from kerastools.diagnosis._probe.saturation import RECTIFIED, saturated_beyond
from kerastools.diagnosis._probe.signals import LayerRecord


@dataclass(frozen=True)
class LayerSignal:
    """What went forward and backward through one layer, in one training step on one batch.

    Attributes:
        layer: Path of the layer: its name, after the names of the models that it is inside of.
        kind: Class of the layer.
        activation: Name of the activation that the layer applies itself.
        second_moment: Mean of the squared outputs.
        variance: Variance of the outputs.
        saturated: Fraction of outputs near a bound of the activation; `None` for activations
            without bounds.
        dead: Fraction of units whose output is zero for every row; `None` unless rectified.
        units: Size of the output's last axis.
        gradient_mean: Mean absolute gradient of the loss by the kernel; `None` without a kernel.
        gradient_norm: Its Euclidean norm.
        weight_norm: Euclidean norm of the kernel.
        is_output: Whether the model returns this layer's output.
    """

    layer: str
    kind: str
    activation: str
    second_moment: float
    variance: float
    saturated: float | None
    dead: float | None
    units: int
    gradient_mean: float | None
    gradient_norm: float | None
    weight_norm: float | None
    is_output: bool

    @property
    def has_kernel(self) -> bool:
        """Whether the layer has a trainable kernel, and so a gradient."""
        return self.gradient_norm is not None

    @property
    def finite(self) -> bool:
        """Whether neither outputs nor gradients hold NaN or infinity."""
        figures = (self.second_moment, self.gradient_norm)
        return all(f is None or np.isfinite(f) for f in figures)

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes as a dictionary."""
        return asdict(self)


def summarise(record: LayerRecord) -> LayerSignal:
    """Returns the figures of one record, computed in float64."""
    # Values that overflowed float32 stay infinite; squaring what did not cannot overflow float64.
    with np.errstate(invalid="ignore"):
        output = record.output.astype("float64")
        second_moment, variance = float(np.mean(output**2)), float(np.var(output))
    activation = activation_name(own_activation(record.layer))
    gradient = _flat(record.gradients)
    return LayerSignal(
        layer=record.path,
        kind=type(record.layer).__name__,
        activation=activation,
        second_moment=second_moment,
        variance=variance,
        saturated=_saturated(output, activation),
        dead=_dead(output, activation),
        units=output.shape[-1] if output.ndim else 1,
        gradient_mean=float(np.mean(np.abs(gradient))) if gradient.size else None,
        gradient_norm=float(np.linalg.norm(gradient)) if gradient.size else None,
        weight_norm=float(np.linalg.norm(_flat(record.kernels))) if record.kernels else None,
        is_output=record.is_output,
    )


def _saturated(output: np.ndarray, activation: str) -> float | None:
    bounds = saturated_beyond(activation)
    if bounds is None:
        return None
    low, high = bounds
    return float(np.mean((output < low) | (output > high)))


def _dead(output: np.ndarray, activation: str) -> float | None:
    if activation not in RECTIFIED or output.ndim < 2:
        return None
    rows = output.reshape(-1, output.shape[-1])
    return float(np.mean(np.all(rows == 0, axis=0)))


def _flat(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([a.astype("float64").ravel() for a in arrays] or [np.empty(0)])
