"""Fans: how many inputs an output value sums over, how many outputs an input value reaches."""

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerastools._core.graph.kinds import is_kind, kind_of

Axes = tuple[int, ...]


@dataclass(frozen=True)
class KernelAxes:
    """What each axis of a kernel does; the remaining axes are positions that are summed over.

    Attributes:
        in_axis: Axes over the inputs that one output value sums over.
        out_axis: Axes over the outputs that one input value reaches.
        batch_axis: Axes along which kernels stand beside each other without sharing a sum, such as
            the channels of a depthwise convolution.
        in_divisor: Of the positions and inputs of the kernel, one output value meets only one in
            `in_divisor`: the product of the strides of a transposed convolution.
        out_divisor: Of the positions and outputs, one input value reaches only one in
            `out_divisor`: strides times groups of a convolution, the gates of an LSTM.
    """

    in_axis: Axes = (-2,)
    out_axis: Axes = (-1,)
    batch_axis: Axes = ()
    in_divisor: float = 1
    out_divisor: int = 1

    def fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Returns (fan_in, fan_out) of a kernel of this shape."""
        inputs = math.prod(shape[a] for a in self.in_axis)
        outputs = math.prod(shape[a] for a in self.out_axis)
        batch = math.prod(shape[a] for a in self.batch_axis)
        positions = math.prod(shape) / max(1, inputs * outputs * batch)
        return positions * inputs / self.in_divisor, positions * outputs / self.out_divisor


def kernel_axes(layer: keras.layers.Layer) -> dict[str, KernelAxes]:
    """Returns the axes of each kernel that `layer` itself holds, by the variable's name.

    Layers without kernels, and kinds that are not known here, give an empty dictionary. The layer
    need not be built.
    """
    kind = kind_of(layer)
    axes = _AXES.get("cell" if kind.gates else kind.name)
    return axes(layer) if axes else {}


def incoming_axes(layer: keras.layers.Layer) -> dict[str, Axes]:
    """Returns the axes of each kernel of `layer` along which one unit's incoming weights lie.

    They are those that one output value sums over; of an embedding, which sums nothing, the row.
    """
    found = {}
    for name, axes in kernel_axes(layer).items():
        named = axes.in_axis + axes.out_axis + axes.batch_axis
        # A convolution has its positions besides; no other kind has axes that are not named.
        rank = max(len(named), getattr(layer, "rank", 0) + 2)
        apart = {a % rank for a in axes.out_axis + axes.batch_axis}
        summed = tuple(a for a in range(rank) if a not in apart)
        found[name] = summed or tuple(a % rank for a in axes.out_axis)
    return found


def met_fraction(layer: Any, spatial_shape: Sequence[int]) -> float:
    """Returns which part of a filter meets inputs, not padding, on average over the positions.

    1 for layers that are no convolution, and without `padding="same"`.
    """
    sizes = getattr(layer, "kernel_size", ())
    if getattr(layer, "padding", None) != "same" or is_kind(layer, "transposed_convolution"):
        return 1.0
    if len(spatial_shape) != len(sizes):
        raise ValueError(
            f"spatial_shape needs {len(sizes)} sizes for {type(layer).__name__}, one for each axis "
            f"of positions. Received {tuple(spatial_shape)}."
        )
    fraction = 1.0
    for n, k, stride, dilation in zip(
        spatial_shape, sizes, layer.strides, layer.dilation_rate, strict=True
    ):
        # TensorFlow's rule: as many outputs as strides fit, and the padding split evenly.
        num_outputs = -(-n // stride)
        reach = (k - 1) * dilation + 1
        before = max(0, (num_outputs - 1) * stride + reach - n) // 2
        taps = [o * stride - before + t * dilation for o in range(num_outputs) for t in range(k)]
        fraction *= sum(0 <= tap < n for tap in taps) / len(taps)
    return fraction


def is_kernel(variable: Any) -> bool:
    """Whether `variable` is a kernel: it has two axes or more, and is no bias.

    The biases of attention heads and of a GRU have two axes.
    """
    return len(variable.shape) > 1 and variable.name != "bias"


def num_gates(layer: keras.layers.Layer) -> int:
    """Returns how many gates share the kernels of a recurrent cell; 0 for any other layer."""
    return kind_of(layer).gates


def kernel_holder(layer: Any) -> Any:
    """Returns what holds the kernels: the cell of a recurrent layer, any other layer itself."""
    return layer.cell if is_kind(layer, "recurrent") else layer


def _depthwise_axes(layer: Any) -> KernelAxes:
    """Kernel (positions..., channels, multiplier): each channel is filtered by itself."""
    return KernelAxes(
        in_axis=(), out_axis=(-1,), batch_axis=(-2,), out_divisor=math.prod(layer.strides)
    )


def _einsum_axes(equation: str) -> KernelAxes:
    """Axes of the kernel in `inputs,kernel->outputs`: summed, new, or shared by both sides."""
    operands, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    letters = [c for c in kernel if c in string.ascii_letters]
    in_axis = tuple(i for i, c in enumerate(letters) if c not in outputs)
    out_axis = tuple(i for i, c in enumerate(letters) if c not in inputs)
    batch_axis = tuple(i for i, c in enumerate(letters) if c in inputs and c in outputs)
    return KernelAxes(in_axis, out_axis, batch_axis)


def _convolution_axes(layer: Any) -> KernelAxes:
    return KernelAxes(out_divisor=layer.groups * math.prod(layer.strides))


def _transposed_axes(layer: Any) -> KernelAxes:
    """Kernel (positions..., outputs, inputs): an output meets every stride-th position only."""
    return KernelAxes(in_axis=(-1,), out_axis=(-2,), in_divisor=math.prod(layer.strides))


def _cell_axes(layer: Any) -> dict[str, KernelAxes]:
    gates, strides = num_gates(layer), math.prod(getattr(layer, "strides", (1,)))
    return {
        "kernel": KernelAxes(out_divisor=gates * strides),
        "recurrent_kernel": KernelAxes(out_divisor=gates),
    }


# A look-up: every row stands alone, nothing is summed.
_ROWS = KernelAxes(in_axis=(), out_axis=(-1,), batch_axis=(-2,))

_AXES: dict[str, Callable[[Any], dict[str, KernelAxes]]] = {
    "dense": lambda layer: {"kernel": KernelAxes()},
    "einsum_dense": lambda layer: {"kernel": _einsum_axes(layer.equation)},
    "convolution": lambda layer: {"kernel": _convolution_axes(layer)},
    "transposed_convolution": lambda layer: {"kernel": _transposed_axes(layer)},
    "depthwise_convolution": lambda layer: {"kernel": _depthwise_axes(layer)},
    "separable_convolution": lambda layer: {
        "depthwise_kernel": _depthwise_axes(layer),
        "pointwise_kernel": KernelAxes(),
    },
    "cell": _cell_axes,
    "embedding": lambda layer: {"embeddings": _ROWS},
}
