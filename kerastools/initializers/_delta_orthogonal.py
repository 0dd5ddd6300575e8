"""Orthogonal convolutions that pass the signal on unchanged in norm."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.registration import register
from kerastools.initializers._orthogonal import orthogonal
from kerastools.initializers._variance_scaling import SeededInitializer, check_seed, draw_seed


@register
class DeltaOrthogonal(SeededInitializer):
    """Draws a convolution that is orthogonal at its middle position and zero elsewhere.

    A convolution with such a kernel turns each pixel's channels and keeps their norm exactly, so
    that a linear or tanh net of thousands of layers passes its signal on without normalisation; the
    other positions are learned from zero.

        W[middle] = gain · Q,  QQᵀ = I;   W[elsewhere] = 0

    Use it as the `kernel_initializer` of `Conv1D`, `Conv2D` and `Conv3D` with stride 1, kernels of
    odd size and no more input than output channels; gain 1 for tanh, √2 for ReLU. With more inputs
    than outputs QᵀQ = I instead, and the part of the signal that has no place is lost.

    Args:
        gain: Factor of the matrix.
        seed: As in `VarianceScaling`: an integer gives the same values at each call, `None` new
            values.

    Raises:
        ValueError: If the kernel has fewer than two axes, or an even size.

    Example:

    >>> import keras
    >>> layer = keras.layers.Conv2D(16, 3, padding="same", kernel_initializer=DeltaOrthogonal())
    >>> x = keras.random.normal((1, 8, 8, 16))
    >>> squares = keras.ops.sum(keras.ops.square(layer(x))) / keras.ops.sum(keras.ops.square(x))
    >>> round(float(squares), 4)
    1.0

    Reference: Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington, "Dynamical isometry and a
    mean field theory of CNNs: how to train 10,000-layer vanilla convolutional neural networks",
    ICML 2018.
    """

    def __init__(
        self, gain: float = 1.0, seed: int | keras.random.SeedGenerator | None = None
    ) -> None:
        self.gain = float(gain)
        self.seed = check_seed(seed, "DeltaOrthogonal")

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Returns a tensor of shape (..., inputs, outputs), zero but at the middle position."""
        shape = tuple(shape)
        if len(shape) < 2 or any(size % 2 == 0 for size in shape[:-2]):
            raise ValueError(
                "DeltaOrthogonal needs a convolution's kernel of shape (sizes..., inputs, outputs) "
                f"with odd sizes, which have a middle. Received shape {shape}."
            )
        dtype = keras.backend.standardize_dtype(dtype)
        q = orthogonal(1, shape[-2], shape[-1], draw_seed(self.seed), dtype)[0]
        middle = np.zeros((*shape[:-2], 1, 1))
        middle[tuple(size // 2 for size in shape[:-2])] = self.gain
        return ops.cast(ops.cast(middle, q.dtype) * q, dtype)
