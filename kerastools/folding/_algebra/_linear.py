"""Layers y = Wx + c that can take a following a⊗y + b into their weights."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from kerastools.folding._algebra._affine import Affine, CannotFold, to_float64

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
# Exactly these: a subclass may compute something else.
LINEAR_LAYERS = (keras.layers.Dense, *_CONVOLUTIONS, *_DEPTHWISE)


@dataclass(frozen=True)
class LinearWeights:
    """The weights of a linear layer in float64, as far as they were folded.

    Attributes:
        layer: The layer that they were read from.
        kernel: W, in Keras's layout.
        bias: c, zeros if the layer has none.
    """

    layer: Any
    kernel: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, layer: Any) -> "LinearWeights":
        """Returns the weights of `layer`, or raises if it is not linear in a way known here."""
        if type(layer) not in LINEAR_LAYERS:
            raise CannotFold(f"follows {type(layer).__name__} {layer.name}, which takes no fold")
        if layer.activation is not keras.activations.linear:
            name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
            raise CannotFold(f"follows the activation {name} of {layer.name}")
        if layer.activity_regularizer is not None:
            raise CannotFold(f"the activity regularizer of {layer.name} reads its input")
        if layer.quantization_mode is not None:
            raise CannotFold(f"the kernel of {layer.name} is quantized")
        if getattr(layer, "lora_enabled", False):
            raise CannotFold(f"the kernel of {layer.name} carries a LoRA update: merge it first")
        kernel = to_float64(layer.kernel)
        outputs = np.prod(kernel.shape[-2:]) if isinstance(layer, _DEPTHWISE) else kernel.shape[-1]
        bias = to_float64(layer.bias) if layer.use_bias else np.zeros(outputs)
        return cls(layer, kernel, bias)

    def output_axis(self, rank: int) -> int:
        """Returns the axis of the channels in this layer's output of `rank` axes."""
        return 1 if getattr(self.layer, "data_format", None) == "channels_first" else rank - 1

    def followed_by(self, affine: Affine) -> "LinearWeights":
        """Returns the weights of a⊗(Wx + c) + b, with a and b vectors over the outputs."""
        a = affine.scale
        if isinstance(self.layer, _DEPTHWISE):
            # The kernel ends in (channels, multiplier); output k is channel k // multiplier.
            a = a.reshape(self.kernel.shape[-2:] if a.size > 1 else (1, 1))
        folded = replace(self, kernel=self.kernel * a, bias=self.bias * affine.scale + affine.shift)
        folded._check_range()
        return folded

    def _check_range(self) -> None:
        for dtype in {self.layer.variable_dtype, self.layer.compute_dtype}:
            largest = max(np.abs(self.kernel).max(), np.abs(self.bias).max())
            if not largest <= _LARGEST[dtype]:
                raise CannotFold(
                    f"the folded weights of {self.layer.name} reach {largest:.3g}, "
                    f"beyond the range of {dtype}"
                )

    def config_changes(self) -> dict[str, Any]:
        """Returns what the config of a plain layer that holds these weights says differently.

        The constraint bounded the kernel before the scale went into it, and the initializer drew
        it: neither says anything about the folded kernel, and both may be classes that a plain
        Keras does not know.
        """
        changes: dict[str, Any] = {"use_bias": True, "bias_constraint": None}
        changes["bias_initializer"] = "zeros"
        kernel = "depthwise" if isinstance(self.layer, _DEPTHWISE) else "kernel"
        return {**changes, f"{kernel}_constraint": None, f"{kernel}_initializer": "zeros"}

    def assign_to(self, layer: Any) -> None:
        """Writes the weights into the built `layer` and copies the trainable flags."""
        layer.trainable = self.layer.trainable
        layer.kernel.assign(self.kernel)
        layer.bias.assign(self.bias)
        layer.kernel.trainable = self.layer.kernel.trainable
        if self.layer.use_bias:
            layer.bias.trainable = self.layer.bias.trainable


# bfloat16 has float32's exponents and 8 bits of fraction; NumPy's finfo does not know it.
_LARGEST = {
    "float16": 65504.0,
    "bfloat16": (2 - 2**-7) * 2.0**127,
    "float32": float(np.finfo("float32").max),
    "float64": float(np.finfo("float64").max),
}
