"""Orthogonal recurrent kernels, one orthogonal matrix per gate."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerastools._core.registration import register
from kerastools.initializers._orthogonal import orthogonal
from kerastools.initializers._variance_scaling import SeededInitializer, check_seed, draw_seed


@register
class GatedOrthogonal(SeededInitializer):
    """Draws a recurrent kernel whose gates are each an orthogonal matrix.

    Keras keeps the kernels of an LSTM's four gates side by side in one matrix of shape (units, 4 ·
    units), and its `Orthogonal` makes the rows of that whole matrix orthonormal: each gate's own
    matrix then has singular values of root mean square 0.5 (0.577 for a GRU's three gates), and the
    signal through time fades by that factor at each step. Here each gate gets its own matrix:

        W = [Q₁, …, Q_g] · gain,   QᵢᵀQᵢ = I

    Use it as the `recurrent_initializer` of `LSTM`, `GRU`, `SimpleRNN` and `ConvLSTM2D`. A kernel
    that is not square per gate has orthonormal columns, or rows where they are fewer.

    Args:
        gain: Factor of each matrix.
        gates: Number of gates side by side in the last axis. By default as many as the axis before
            it goes into the last, which is right for a recurrent kernel (..., units, gates ·
            units); one where it does not go.
        seed: As in `VarianceScaling`: an integer gives the same values at each call, `None` new
            values.

    Raises:
        ValueError: If the kernel has fewer than two axes, or its last is no multiple of `gates`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> kernel = keras.ops.convert_to_numpy(GatedOrthogonal(seed=1)((8, 32)))
    >>> forget = kernel[:, 8:16]
    >>> bool(np.allclose(forget.T @ forget, np.eye(8), atol=1e-5))
    True

    Reference: Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning
    in deep linear neural networks", ICLR 2014; Le, Jaitly and Hinton, "A simple way to initialize
    recurrent networks of rectified linear units", 2015.
    """

    def __init__(
        self,
        gain: float = 1.0,
        gates: int | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ) -> None:
        if gates is not None and gates < 1:
            raise ValueError(f"GatedOrthogonal needs gates of at least 1. Received gates={gates}.")
        self.gain = float(gain)
        self.gates = gates
        self.seed = check_seed(seed, "GatedOrthogonal")

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Returns a tensor of this shape whose gates are orthogonal."""
        shape = tuple(shape)
        gates = self.gates
        if gates is None and len(shape) > 1:
            gates = shape[-1] // shape[-2] if shape[-1] % shape[-2] == 0 else 1
        if len(shape) < 2 or shape[-1] % (gates or 1):
            raise ValueError(
                f"GatedOrthogonal needs a kernel of shape (..., units, gates · units) with "
                f"gates={gates}. Received shape {shape}. For a bias use keras.initializers.Zeros()."
            )
        gates = gates or 1
        rows, columns = math.prod(shape[:-1]), shape[-1] // gates
        dtype = keras.backend.standardize_dtype(dtype)
        q = orthogonal(gates, rows, columns, draw_seed(self.seed), dtype)
        side_by_side = ops.reshape(ops.transpose(q, (1, 0, 2)), shape)
        return ops.cast(self.gain * side_by_side, dtype)
