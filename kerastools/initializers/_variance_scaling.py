"""Random weights whose variance is set by the fans of the layer."""

import math
import random
from collections.abc import Sequence
from typing import Any

import keras

from kerastools._core.graph.fans import KernelAxes
from kerastools._core.registration import Configured, register

# Standard deviation of a standard normal that is truncated at ±2.
_TRUNCATED_STDDEV = 0.87962566103423978

_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")


class SeededInitializer(Configured, keras.initializers.Initializer):
    """Base of the initializers with a `seed`."""

    _objects = ("seed",)


@register
class VarianceScaling(SeededInitializer):
    """Draws weights of variance `scale / n`, with n the fan that the layer really has.

    Keras reads the fans off the kernel's shape, as if every kernel were that of `Dense` or `Conv`.
    For a depthwise convolution of C channels its weights then have a variance C times too small,
    and a transposed convolution's fans are swapped and ignore its strides. Here the axes are named,
    as in JAX, and `for_layer` names them for you.

    With P the product of the positions (the axes that are neither of inputs, outputs nor batch):

        fan_in  = P · prod(shape[in_axis])  / in_divisor
        fan_out = P · prod(shape[out_axis]) / out_divisor
        n = fan_in, fan_out, or (fan_in + fan_out) / 2
        truncated_normal:    w ~ N(0, scale / n), cut at 2 standard deviations before correction
        untruncated_normal:  w ~ N(0, scale / n)
        uniform:             w ~ U(−r, r),  r = √(3 · scale / n)

    The truncated normal is widened by 1 / 0.8796, so that its variance after the cut is as stated.

    | kernel | arguments |
    |---|---|
    | Dense, Conv | the defaults; `out_divisor` strides × groups |
    | DepthwiseConv | `in_axis=(), batch_axis=-2`; `out_divisor` strides |
    | ConvTranspose, stored (…, out, in) | `in_axis=-1, out_axis=-2`; `in_divisor` strides |
    | LSTM, GRU | `out_divisor` gates: 4, 3 |

    Args:
        scale: Factor of the variance, greater than 0.
        mode: `"fan_in"` keeps the variance of the signal going forward, `"fan_out"` that of the
            gradient going backward, `"fan_avg"` is between.
        distribution: `"truncated_normal"`, `"untruncated_normal"` or `"uniform"`.
        seed: An integer gives the same values at each call, as in Keras, so do not share one
            seeded instance between layers. `None`, unlike in Keras, gives new values at each
            call; `keras.utils.set_random_seed` makes that repeatable. A
            `keras.random.SeedGenerator` also gives new values at each call.
        in_axis: Axis or axes of the inputs that one output value sums over.
        out_axis: Axis or axes of the outputs that one input value reaches.
        batch_axis: Axis or axes along which separate kernels stand side by side.
        in_divisor: One output value meets one in so many of the kernel's positions.
        out_divisor: One input value reaches one in so many of the positions and outputs.

    Raises:
        ValueError: If an argument is not one of the above, or the kernel has too few axes.

    Example:

    >>> import keras
    >>> initializer = VarianceScaling(scale=2.0, mode="fan_in", in_axis=(), batch_axis=-2, seed=1)
    >>> kernel = initializer((3, 3, 64, 1))  # depthwise: each output value sums over 9 inputs
    >>> 0.3 < float(keras.ops.var(kernel)) * 9 / 2 < 1.7
    True

    Reference: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010; He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | keras.random.SeedGenerator | None = None,
        *,
        in_axis: int | Sequence[int] = -2,
        out_axis: int | Sequence[int] = -1,
        batch_axis: int | Sequence[int] = (),
        in_divisor: float = 1,
        out_divisor: int = 1,
    ) -> None:
        name = type(self).__name__
        if not scale > 0:
            raise ValueError(f"{name} needs scale > 0. Received scale={scale}.")
        if mode not in _MODES:
            raise ValueError(f"{name} needs mode to be one of {_MODES}. Received mode={mode!r}.")
        if distribution not in _DISTRIBUTIONS:
            raise ValueError(
                f"{name} needs distribution to be one of {_DISTRIBUTIONS}. "
                f"Received distribution={distribution!r}."
            )
        if min(in_divisor, out_divisor) < 1:
            raise ValueError(
                f"{name} needs in_divisor and out_divisor of at least 1. "
                f"Received in_divisor={in_divisor}, out_divisor={out_divisor}."
            )
        self.scale = float(scale)
        self.mode = mode
        self.distribution = distribution
        self.seed = check_seed(seed, name)
        self.in_axis = _as_axes(in_axis)
        self.out_axis = _as_axes(out_axis)
        self.batch_axis = _as_axes(batch_axis)
        self.in_divisor = in_divisor
        self.out_divisor = out_divisor

    def fans(self, shape: Sequence[int]) -> tuple[float, float]:
        """Returns (fan_in, fan_out) of a kernel of this shape."""
        shape = tuple(shape)
        rank = len(shape)
        used = [*self.in_axis, *self.out_axis, *self.batch_axis]
        inside = all(-rank <= axis < rank for axis in used)
        if not inside or len({axis % rank for axis in used}) < len(used):
            raise ValueError(
                f"{type(self).__name__} needs a kernel with separate axes "
                f"in_axis={self.in_axis}, out_axis={self.out_axis}, batch_axis={self.batch_axis}. "
                f"Received shape {shape}. For a bias use keras.initializers.Zeros(); for other "
                "kernels name the axes, or take the initializer from kerastools.initializers."
                "for_layer(layer)."
            )
        axes = KernelAxes(
            self.in_axis, self.out_axis, self.batch_axis, self.in_divisor, self.out_divisor
        )
        return axes.fans(shape)

    def variance(self, shape: Sequence[int]) -> float:
        """Returns the variance of the weights of a kernel of this shape."""
        fan_in, fan_out = self.fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        # Below 1 (a stride larger than the kernel) a unit is reached by chance only.
        return self.scale / max(1.0, n)

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Returns a tensor of this shape, drawn from the distribution."""
        variance = self.variance(shape)
        seed = draw_seed(self.seed)
        if self.distribution == "uniform":
            r = math.sqrt(3 * variance)
            return keras.random.uniform(shape, -r, r, dtype=dtype, seed=seed)
        if self.distribution == "untruncated_normal":
            return keras.random.normal(shape, 0.0, math.sqrt(variance), dtype=dtype, seed=seed)
        stddev = math.sqrt(variance) / _TRUNCATED_STDDEV
        return keras.random.truncated_normal(shape, 0.0, stddev, dtype=dtype, seed=seed)


def check_seed(seed: Any, name: str) -> int | keras.random.SeedGenerator | None:
    """Returns `seed` as an integer, a `SeedGenerator` or `None`, or raises."""
    if isinstance(seed, dict):  # from a saved model
        seed = keras.saving.deserialize_keras_object(seed)
    if seed is None or isinstance(seed, int | keras.random.SeedGenerator):
        return seed
    raise ValueError(
        f"{name} needs seed to be an integer, a keras.random.SeedGenerator or None. "
        f"Received seed={seed!r} of type {type(seed).__name__}."
    )


def draw_seed(seed: int | keras.random.SeedGenerator | None) -> Any:
    """Returns what `keras.random` takes: `seed`, or a fresh integer where it is `None`."""
    # Python's generator, as Keras's own default seeds: set_random_seed rules it, and unlike
    # Keras's global generator it can be asked inside a traced function.
    return random.randint(1, 2**31 - 1) if seed is None else seed


def _as_axes(axis: int | Sequence[int]) -> tuple[int, ...]:
    return (axis,) if isinstance(axis, int) else tuple(axis)
