"""The schemes of Glorot, He and LeCun: `VarianceScaling` with two numbers fixed."""

from collections.abc import Sequence
from typing import ClassVar

import keras

from kerastools._core.registration import register
from kerastools.initializers._variance_scaling import VarianceScaling


class Scheme(VarianceScaling):
    """Base of the six schemes.

    Each is right as it is for the kernels of `Dense` and `Conv`; for every other kind take
    `kerastools.initializers.for_layer(layer, scheme)`, or name the axes.

    Args:
        seed: An integer gives the same values at each call, `None` new values at each call.
        in_axis: As in `VarianceScaling`, and so are those that follow.
        out_axis: Axis or axes of the outputs that one input value reaches.
        batch_axis: Axis or axes along which separate kernels stand side by side.
        in_divisor: One output value meets one in so many of the kernel's positions.
        out_divisor: One input value reaches one in so many of the positions and outputs.

    Raises:
        ValueError: If an argument is out of range, or the kernel has too few axes.
    """

    # The scale, mode and distribution of VarianceScaling.
    parts: ClassVar[tuple[float, str, str]]

    def __init__(
        self,
        seed: int | keras.random.SeedGenerator | None = None,
        *,
        in_axis: int | Sequence[int] = -2,
        out_axis: int | Sequence[int] = -1,
        batch_axis: int | Sequence[int] = (),
        in_divisor: float = 1,
        out_divisor: int = 1,
    ) -> None:
        super().__init__(
            *self.parts,
            seed,
            in_axis=in_axis,
            out_axis=out_axis,
            batch_axis=batch_axis,
            in_divisor=in_divisor,
            out_divisor=out_divisor,
        )


@register
class GlorotNormal(Scheme):
    """Draws normal weights by Glorot's (Xavier's) rule, for tanh, sigmoid and softmax units.

    It keeps the variance of the signal in the forward pass and of the gradient in the backward
    pass about equal from layer to layer; each alone would need its own fan.

        σ² = 2 / (fan_in + fan_out),   w ~ N(0, σ²), cut at 2 standard deviations

    Arguments are `seed`, and those that name the axes in `VarianceScaling`.

    Example:

    >>> kernel = GlorotNormal(seed=1)((300, 100))
    >>> 0.97 < float(keras.ops.var(kernel)) / (2 / (300 + 100)) < 1.03
    True

    Reference: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010.
    """

    parts = (1.0, "fan_avg", "truncated_normal")


@register
class GlorotUniform(Scheme):
    """Draws uniform weights by Glorot's (Xavier's) rule, for tanh, sigmoid and softmax units.

    It keeps the variance of the signal in the forward pass and of the gradient in the backward
    pass about equal from layer to layer; each alone would need its own fan.

        r = √(6 / (fan_in + fan_out)),   w ~ U(−r, r)

    Arguments are `seed`, and those that name the axes in `VarianceScaling`.

    Example:

    >>> kernel = GlorotUniform(seed=1)((300, 100))
    >>> 0.97 < float(keras.ops.var(kernel)) / (2 / (300 + 100)) < 1.03
    True

    Reference: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010.
    """

    parts = (1.0, "fan_avg", "uniform")


@register
class HeNormal(Scheme):
    """Draws normal weights by He's (Kaiming's) rule, for ReLU and its variants.

    A rectifier zeroes half of its inputs; the factor 2 makes up for it, so that the second moment
    of the signal is the same after each layer.

        σ² = 2 / fan_in,   w ~ N(0, σ²), cut at 2 standard deviations

    Arguments are `seed`, and those that name the axes in `VarianceScaling`.

    Example:

    >>> kernel = HeNormal(seed=1)((300, 100))
    >>> 0.97 < float(keras.ops.var(kernel)) / (2 / 300) < 1.03
    True

    Reference: He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015.
    """

    parts = (2.0, "fan_in", "truncated_normal")


@register
class HeUniform(Scheme):
    """Draws uniform weights by He's (Kaiming's) rule, for ReLU and its variants.

    A rectifier zeroes half of its inputs; the factor 2 makes up for it, so that the second moment
    of the signal is the same after each layer.

        r = √(6 / fan_in),   w ~ U(−r, r)

    Arguments are `seed`, and those that name the axes in `VarianceScaling`.

    Example:

    >>> kernel = HeUniform(seed=1)((300, 100))
    >>> 0.97 < float(keras.ops.var(kernel)) / (2 / 300) < 1.03
    True

    Reference: He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015.
    """

    parts = (2.0, "fan_in", "uniform")


@register
class LecunNormal(Scheme):
    """Draws normal weights by LeCun's rule, for SELU units.

    It gives each unit's sum the variance of the inputs, where SELU has its fixed point of mean 0
    and variance 1.

        σ² = 1 / fan_in,   w ~ N(0, σ²), cut at 2 standard deviations

    Arguments are `seed`, and those that name the axes in `VarianceScaling`.

    Example:

    >>> kernel = LecunNormal(seed=1)((300, 100))
    >>> 0.97 < float(keras.ops.var(kernel)) / (1 / 300) < 1.03
    True

    Reference: LeCun, Bottou, Orr and Müller, "Efficient BackProp", 1998; Klambauer, Unterthiner,
    Mayr and Hochreiter, "Self-normalizing neural networks", NeurIPS 2017.
    """

    parts = (1.0, "fan_in", "truncated_normal")


@register
class LecunUniform(Scheme):
    """Draws uniform weights by LeCun's rule, for SELU units.

    It gives each unit's sum the variance of the inputs, where SELU has its fixed point of mean 0
    and variance 1.

        r = √(3 / fan_in),   w ~ U(−r, r)

    Arguments are `seed`, and those that name the axes in `VarianceScaling`.

    Example:

    >>> kernel = LecunUniform(seed=1)((300, 100))
    >>> 0.97 < float(keras.ops.var(kernel)) / (1 / 300) < 1.03
    True

    Reference: LeCun, Bottou, Orr and Müller, "Efficient BackProp", 1998; Klambauer, Unterthiner,
    Mayr and Hochreiter, "Self-normalizing neural networks", NeurIPS 2017.
    """

    parts = (1.0, "fan_in", "uniform")


SCHEMES: dict[str, type[Scheme]] = {
    "glorot_normal": GlorotNormal,
    "glorot_uniform": GlorotUniform,
    "he_normal": HeNormal,
    "he_uniform": HeUniform,
    "lecun_normal": LecunNormal,
    "lecun_uniform": LecunUniform,
}
