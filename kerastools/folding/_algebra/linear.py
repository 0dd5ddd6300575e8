"""Layers y = Wx + c that can take an a⊗x + b before or after them into their weights."""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import keras
import numpy as np

from kerastools.folding._algebra.affine import RANGE_OF_HALF, Affine, CannotFold, to_float64


@dataclass(frozen=True)
class LinearWeights:
    """The weights of a linear layer in float64, as far as they were folded.

    Attributes:
        layer: The layer that they were read from.
        kernels: Its kernels by the name of their attribute, in Keras's layout.
        bias: c, zeros if the layer has none.
    """

    layer: Any
    kernels: dict[str, np.ndarray]
    bias: np.ndarray

    names: ClassVar[tuple[str, ...]] = ("kernel",)
    # What the config calls each kernel's initializer and constraint after.
    prefixes: ClassVar[tuple[str, ...]] = ("kernel",)

    @classmethod
    def of(cls, layer: Any) -> "LinearWeights":
        """Returns the weights of `layer`, or raises if it is not linear in a way known here."""
        kind = _KINDS.get(type(layer))
        if kind is None:
            raise CannotFold(f"{layer.name} ({type(layer).__name__}) takes no fold")
        if layer.quantization_mode is not None:
            raise CannotFold(f"the kernel of {layer.name} is quantized")
        if getattr(layer, "lora_enabled", False):
            raise CannotFold(f"the kernel of {layer.name} carries a LoRA update: merge it first")
        kernels = {name: to_float64(getattr(layer, name)) for name in kind.names}
        bias = np.zeros(1) if getattr(layer, "bias", None) is None else to_float64(layer.bias)
        return kind(layer, kernels, bias)

    def followed_by(self, affine: Affine, rank: int) -> Self:
        """Returns the weights of a⊗(Wx + c) + b, for outputs of `rank` axes."""
        layer = self.layer
        if layer.activation is not keras.activations.linear:
            raise CannotFold(f"follows the activation {_name(layer.activation)} of {layer.name}")
        if layer.activity_regularizer is not None:
            raise CannotFold(f"the activity regularizer of {layer.name} reads its input")
        return self._in_range(self._scale_outputs(affine, rank))

    def preceded_by(self, affine: Affine, rank: int) -> Self:
        """Returns the weights of W(a⊗x + b) + c, for inputs of `rank` axes."""
        if affine.shifts and self._pads():
            raise CannotFold(f"{self.layer.name} pads its input with zeros, not with the shift")
        return self._in_range(self._scale_inputs(affine, rank))

    def _scale_outputs(self, affine: Affine, rank: int) -> Self:
        a = affine.along(self._axis(rank), self._num_outputs())
        last = self.names[-1]
        kernels = {**self.kernels, last: self._times_outputs(self.kernels[last], a.scale)}
        return replace(self, kernels=kernels, bias=a.scale * self.bias + a.shift)

    def _scale_inputs(self, affine: Affine, rank: int) -> Self:
        raise CannotFold(f"{self.layer.name} ({type(self.layer).__name__}) takes no fold before it")

    def _times_outputs(self, kernel: np.ndarray, a: np.ndarray) -> np.ndarray:
        return kernel * a

    def _num_outputs(self) -> int:
        return self.kernels[self.names[-1]].shape[-1]

    def _axis(self, rank: int) -> int:
        """Returns the axis of the channels in inputs or outputs of `rank` axes."""
        return 1 if getattr(self.layer, "data_format", None) == "channels_first" else rank - 1

    def _pads(self) -> bool:
        """Whether zeros are seen beside the input."""
        return self.layer.padding != "valid" and max(self.layer.kernel_size) > 1

    def _in_range(self, folded: Self) -> Self:
        for array in (*folded.kernels.values(), folded.bias):
            largest = np.abs(array).max()
            for dtype in {self.layer.variable_dtype, self.layer.compute_dtype}:
                if not largest <= _LARGEST[dtype]:
                    raise CannotFold(
                        f"the folded weights of {self.layer.name} reach {largest:.3g}, "
                        f"beyond the range of {dtype}"
                    )
        return folded

    def config_changes(self) -> dict[str, Any]:
        """Returns what the config of a plain layer that holds these weights says differently.

        The constraint bounded the kernel before the scale went into it, and the initializer drew
        it: neither says anything about the folded kernel, and both may be classes that a plain
        Keras does not know.
        """
        changes: dict[str, Any] = {"use_bias": True}
        for prefix in (*self.prefixes, "bias"):
            changes |= {f"{prefix}_constraint": None, f"{prefix}_initializer": "zeros"}
        return changes

    def assign_to(self, layer: Any) -> None:
        """Writes the weights into the built `layer` and copies the trainable flags."""
        layer.trainable = self.layer.trainable
        for name, value in self.kernels.items():
            getattr(layer, name).assign(value)
            getattr(layer, name).trainable = getattr(self.layer, name).trainable
        layer.bias.assign(np.broadcast_to(self.bias, layer.bias.shape))
        if getattr(self.layer, "bias", None) is not None:
            layer.bias.trainable = self.layer.bias.trainable


class DenseWeights(LinearWeights):
    """Kernel (inputs, outputs), on the last axis."""

    def _pads(self) -> bool:
        return False

    def _scale_inputs(self, affine: Affine, rank: int) -> Self:
        kernel = self.kernels["kernel"]
        before = affine.along(rank - 1, len(kernel))
        bias = self.bias + before.shift @ kernel
        return replace(self, kernels={"kernel": kernel * before.scale[:, None]}, bias=bias)


class ConvWeights(LinearWeights):
    """Kernel (..., inputs of a group, outputs); outputs are ordered by group."""

    def _scale_inputs(self, affine: Affine, rank: int) -> Self:
        kernel, groups = self.kernels["kernel"], self.layer.groups
        inputs, outputs = kernel.shape[-2:]
        before = affine.along(self._axis(rank), inputs * groups)
        a, b = (
            np.repeat(v.reshape(groups, inputs).T, outputs // groups, axis=1)
            for v in (before.scale, before.shift)
        )
        bias = self.bias + (kernel * b).reshape(-1, outputs).sum(0)
        return replace(self, kernels={"kernel": kernel * a}, bias=bias)


class DepthwiseWeights(LinearWeights):
    """Kernel (..., inputs, multiplier); output k comes from input k // multiplier."""

    prefixes = ("depthwise",)

    def _num_outputs(self) -> int:
        return int(np.prod(self.kernels["kernel"].shape[-2:]))

    def _times_outputs(self, kernel: np.ndarray, a: np.ndarray) -> np.ndarray:
        return kernel * a.reshape(kernel.shape[-2:])

    def _scale_inputs(self, affine: Affine, rank: int) -> Self:
        kernel = self.kernels["kernel"]
        before = affine.along(self._axis(rank), kernel.shape[-2])
        bias = self.bias + _sum_over_space(kernel * before.shift[:, None])
        return replace(self, kernels={"kernel": kernel * before.scale[:, None]}, bias=bias)


class SeparableWeights(LinearWeights):
    """A depthwise kernel (..., inputs, multiplier), then (1, ..., inputs · multiplier, outputs)."""

    names = ("depthwise_kernel", "pointwise_kernel")
    prefixes = ("depthwise", "pointwise")

    def _scale_inputs(self, affine: Affine, rank: int) -> Self:
        depthwise, pointwise = self.kernels.values()
        before = affine.along(self._axis(rank), depthwise.shape[-2])
        between = _sum_over_space(depthwise * before.shift[:, None])
        bias = self.bias + between @ pointwise.reshape(pointwise.shape[-2:])
        kernels = {**self.kernels, "depthwise_kernel": depthwise * before.scale[:, None]}
        return replace(self, kernels=kernels, bias=bias)


class TransposeWeights(LinearWeights):
    """Kernel (..., outputs, inputs)."""

    def _pads(self) -> bool:
        # Outputs near the border, or between strides, are made of fewer inputs than others.
        return True

    def _num_outputs(self) -> int:
        return self.kernels["kernel"].shape[-2]

    def _times_outputs(self, kernel: np.ndarray, a: np.ndarray) -> np.ndarray:
        return kernel * a[:, None]

    def _scale_inputs(self, affine: Affine, rank: int) -> Self:
        kernel = self.kernels["kernel"]
        before = affine.along(self._axis(rank), kernel.shape[-1])
        return replace(self, kernels={"kernel": kernel * before.scale})


class EinsumWeights(LinearWeights):
    """Kernel and bias with an axis per letter of the layer's equation."""

    def _pads(self) -> bool:
        return False

    def _specs(self) -> tuple[str, str, str]:
        return tuple(re.split(",|->", self.layer.equation))  # type: ignore[return-value]

    def _letters(self, spec: str, rank: int) -> str:
        """Returns a letter for each axis but the batch; `.` is no letter of the kernel."""
        dots = "." * (rank - len(spec.replace("...", "")))
        return spec.replace("...", dots)[1:]

    def _on_kernel(self, values: np.ndarray, letters: str) -> np.ndarray:
        """Returns `values`, with an axis per letter, shaped to multiply the kernel."""
        varying = [c for c, size in zip(letters, values.shape, strict=True) if size != 1]
        spec = self._specs()[1]
        if not set(varying) <= set(spec):
            raise CannotFold(f"works along an axis that {self.layer.name} has no weights for")
        sizes = {c: n for c, n in zip(letters, values.shape, strict=True) if n != 1}
        vectors = values.reshape([n for n in values.shape if n != 1])
        order = sorted(range(len(varying)), key=lambda i: spec.index(varying[i]))
        return vectors.transpose(order).reshape([sizes.get(c, 1) for c in spec])

    def _scale_outputs(self, affine: Affine, rank: int) -> Self:
        if self._specs()[2].endswith("..."):
            raise CannotFold(f"{self.layer.name} has open axes after its own")
        letters = self._letters(self._specs()[2], rank)
        kernel = self.kernels["kernel"] * self._on_kernel(affine.scale, letters)
        bias = self._aligned(affine.scale) * self.bias + self._aligned(affine.shift)
        return replace(self, kernels={"kernel": kernel}, bias=bias)

    def _scale_inputs(self, affine: Affine, rank: int) -> Self:
        source, spec, target = self._specs()
        letters, outputs = self._letters(source, rank), target.replace("...", "")
        if affine.shifts and (set(letters) - set(spec + outputs + ".") or target.endswith("...")):
            raise CannotFold(f"{self.layer.name} sums or moves axes that it has no weights for")
        kernel = self.kernels["kernel"]
        scaled, shifted = (
            kernel * self._on_kernel(v, letters) for v in (affine.scale, affine.shift)
        )
        kept = "".join(c for c in outputs if c in spec)
        sums = np.einsum(f"{spec}->{kept}", shifted)
        sizes = dict(zip(kept, sums.shape, strict=True))
        shift = self._aligned(sums.reshape([sizes.get(c, 1) for c in outputs]))
        return replace(self, kernels={"kernel": scaled}, bias=self.bias + shift)

    def _aligned(self, values: np.ndarray) -> np.ndarray:
        """Returns `values` without the leading axes of size 1: the bias has as few as it can."""
        while values.ndim > 1 and values.shape[0] == 1:
            values = values[0]
        return values

    def config_changes(self) -> dict[str, Any]:
        """Returns what the config says differently; the bias gets the axes that it needs."""
        changes = super().config_changes()
        del changes["use_bias"]
        output = self._specs()[2].replace("...", "")
        tail = output[len(output) - min(self.bias.ndim, len(output)) :]
        sizes = self.bias.shape[-len(tail) :]
        needed = {c for c, size in zip(tail, sizes, strict=True) if size != 1} or {output[-1]}
        needed |= set(self.layer.bias_axes or "")
        return {**changes, "bias_axes": "".join(c for c in output if c in needed)}


def _name(activation: Any) -> str:
    return getattr(activation, "__name__", type(activation).__name__)


def _sum_over_space(kernel: np.ndarray) -> np.ndarray:
    """Returns the sum of a depthwise kernel over space, as a vector over its outputs."""
    return kernel.reshape(-1, *kernel.shape[-2:]).sum(0).reshape(-1)


_KINDS: dict[type, type[LinearWeights]] = {
    keras.layers.Dense: DenseWeights,
    keras.layers.EinsumDense: EinsumWeights,
    keras.layers.Conv1D: ConvWeights,
    keras.layers.Conv2D: ConvWeights,
    keras.layers.Conv3D: ConvWeights,
    keras.layers.Conv1DTranspose: TransposeWeights,
    keras.layers.Conv2DTranspose: TransposeWeights,
    keras.layers.Conv3DTranspose: TransposeWeights,
    keras.layers.DepthwiseConv1D: DepthwiseWeights,
    keras.layers.DepthwiseConv2D: DepthwiseWeights,
    keras.layers.SeparableConv1D: SeparableWeights,
    keras.layers.SeparableConv2D: SeparableWeights,
}
_LARGEST = {
    **RANGE_OF_HALF,
    "float32": float(np.finfo("float32").max),
    "float64": float(np.finfo("float64").max),
}
