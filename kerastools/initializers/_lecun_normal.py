"""LeCun initialisation from a truncated normal distribution."""

from collections.abc import Sequence
from typing import Any

import keras

from kerastools._core.registration import register
from kerastools.initializers._variance_scaling import VarianceScaling


@register
class LecunNormal(VarianceScaling):
    """Draws normal weights by LeCun's rule, for SELU units.

    It gives each unit's sum the variance of the inputs, which is where SELU has its fixed point of
    mean 0 and variance 1.

        σ² = 1 / fan_in,   w ~ N(0, σ²), cut at 2 standard deviations

    As it stands it is right for `Dense` and plain `Conv` kernels; for every other kind take
    `kerastools.initializers.for_layer(layer, "lecun_normal")`, or name the axes as in
    `VarianceScaling`.

    Args:
        seed: As in `VarianceScaling`: an integer repeats its values at each call, `None` draws
            anew.
        in_axis: Axis or axes of the inputs that one output value sums over.
        out_axis: Axis or axes of the outputs that one input value reaches.
        batch_axis: Axis or axes along which separate kernels stand side by side.
        in_divisor: One output value meets one in so many of the kernel's positions.
        out_divisor: One input value reaches one in so many of the positions and outputs.

    Raises:
        ValueError: If an argument is out of range, or the kernel has too few axes.

    Example:

    >>> import keras
    >>> kernel = LecunNormal(seed=1)((300, 100))
    >>> 0.97 < float(keras.ops.var(kernel)) / (1 / 300) < 1.03
    True

    Reference: LeCun, Bottou, Orr and Müller, "Efficient BackProp", 1998; Klambauer, Unterthiner,
    Mayr and Hochreiter, "Self-normalizing neural networks", NeurIPS 2017.
    """

    def __init__(
        self,
        seed: int | keras.random.SeedGenerator | None = None,
        in_axis: int | Sequence[int] = -2,
        out_axis: int | Sequence[int] = -1,
        batch_axis: int | Sequence[int] = (),
        in_divisor: float = 1,
        out_divisor: int = 1,
    ) -> None:
        super().__init__(
            1.0,
            "fan_in",
            "truncated_normal",
            seed,
            in_axis,
            out_axis,
            batch_axis,
            in_divisor,
            out_divisor,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return self._shared_config()
