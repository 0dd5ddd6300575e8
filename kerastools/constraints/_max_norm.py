"""Max-norm along the axes that really are a unit's incoming weights."""

from typing import Any

import keras
from keras import ops

from kerastools._core.registration import Configured, register


@register
class MaxNorm(Configured, keras.constraints.Constraint):
    """Scales every unit's incoming weight vector back to norm `max_value` where it is longer.

    After each update, with w the weights that one unit sums over:

        w ← w · r / ‖w‖₂   where ‖w‖₂ > r,   else w, to the bit

    Keras's `MaxNorm` defaults to axis 0 of whatever shape: right for `Dense`, but a convolution's
    filter is then bounded per kernel row only. It also divides by ‖w‖ + ε, so that vectors well
    inside the bound shrink a little at each step. Here vectors inside the bound are left alone, and
    the norm is computed in float32 at least, so that float16 does not overflow.

    Use it with dropout and large learning rates; r is usually 1 to 4.

    Args:
        max_value: r, the largest norm allowed; in units of the weights, greater than 0.
        axis: The axes that are summed over: an integer, a tuple, or `"auto"`, every axis but the
            last, which is right for `Dense`, `Conv1D`, `Conv2D` and `Conv3D` (a Dense column, a
            whole filter) and for recurrent layers (a gate's column); a vector, such as a bias, is
            bounded as a whole, as in Keras. For every other kind
            `kerastools.constraints.for_layer` knows the axes: a depthwise kernel `(..., channels,
            multiplier)` needs its spatial axes, `(0, 1)` in 2-D, and a transposed convolution's
            kernel `(..., out, in)` needs `(0, 1, 3)`. For a layer that puts one constraint on
            kernels that lie differently, as `MultiHeadAttention` does, a dictionary by shape:
            `{"64x8x16": (0,), "8x16x64": (0, 1)}`.

    Raises:
        ValueError: If `max_value` is not greater than 0, or `axis` is not one of the above.

    Example:

    >>> import numpy as np
    >>> w = np.array([[3.0, 0.3], [4.0, 0.4]], "float32")  # columns of norm 5 and 0.5
    >>> print(keras.ops.convert_to_numpy(MaxNorm(1.0)(w)))
    [[0.6 0.3]
     [0.8 0.4]]

    Reference: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way
    to prevent neural networks from overfitting", JMLR 2014, section 5.1.
    """

    def __init__(
        self,
        max_value: float = 2.0,
        axis: int | tuple[int, ...] | str | dict[str, tuple[int, ...]] = "auto",
    ) -> None:
        if not float(max_value) > 0:
            raise ValueError(
                f"MaxNorm needs max_value > 0, the largest norm of a unit's incoming weights. "
                f"Received max_value={max_value}."
            )
        if isinstance(axis, str) and axis != "auto":
            raise ValueError(
                f'MaxNorm needs axis to be an integer, a tuple of integers, "auto" or a dictionary '
                f"by shape. Received axis={axis!r}."
            )
        self.max_value = float(max_value)
        if isinstance(axis, dict):
            axis = {shape: tuple(axes) for shape, axes in axis.items()}
        self.axis = tuple(axis) if isinstance(axis, list | tuple) else axis

    def __call__(self, w: Any) -> Any:
        """Returns `w` with every vector longer than `max_value` scaled back to it."""
        w = ops.convert_to_tensor(w)
        axis = self.axes_of(tuple(w.shape))
        wide = ops.cast(w, keras.backend.result_type(w.dtype, "float32"))
        # Squares of the ratio to the largest element cannot overflow.
        largest = ops.max(ops.abs(wide), axis=axis, keepdims=True, initial=0)
        unit = ops.where(largest > 0, largest, 1.0)
        norm = unit * ops.sqrt(ops.sum(ops.square(wide / unit), axis=axis, keepdims=True))
        scaled = ops.cast(wide * (self.max_value / ops.maximum(norm, self.max_value)), w.dtype)
        # A vector that was scaled lies a rounding error beside r; the margin keeps it where it is.
        margin = 4 * _epsilon(w.dtype)
        return ops.where(norm > self.max_value * (1 + margin), scaled, w)

    def axes_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the axes that are summed over in weights of a shape."""
        if isinstance(self.axis, str):
            return tuple(range(max(len(shape) - 1, min(len(shape), 1))))
        if not isinstance(self.axis, dict):
            return self.axis if isinstance(self.axis, tuple) else (self.axis,)
        key = "x".join(map(str, shape))
        if key not in self.axis:
            raise ValueError(
                f"MaxNorm has axes for kernels of shapes {list(self.axis)}. Received {key}."
            )
        return self.axis[key]


def _epsilon(dtype: Any) -> float:
    """Returns the spacing of `dtype` at 1."""
    return {"float16": 2**-10, "bfloat16": 2**-7, "float64": 2**-52}.get(
        keras.backend.standardize_dtype(dtype), 2**-23
    )
