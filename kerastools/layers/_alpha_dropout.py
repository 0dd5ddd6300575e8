"""Dropout for SELU nets, whose rate can change while the model trains."""

from typing import Any

import keras
from keras import ops

from kerastools._core.graph.kinds import kind
from kerastools._core.registration import register
from kerastools.layers._mutable_rate import MutableRateLayer

# SELU's value at minus infinity, −scale · α.
_FLOOR = -1.6732632423543772848170429916717 * 1.0507009873554804934193349852946


@register
@kind("alpha_dropout")
class AlphaDropout(MutableRateLayer, keras.layers.AlphaDropout):
    """Keras's alpha dropout with a mutable rate: keeps mean 0 and variance 1 behind SELU.

    Use it behind SELU activations, where `Dropout` would break the self-normalization. Dropped
    units are set to SELU's floor. As in `kerastools.layers.Dropout`, `layer.rate = 0.1` acts on the
    next step without compiling again; otherwise this is Keras's layer, with the same mask at the
    same seed and no weights. With p = rate, a mask M of Bernoulli(1 − p) draws and SELU's floor
    α' = −1.7581:

        training:   y = a · (x ⊗ M + α' · (1 − M)) + b
                    a = ((1 − p)(1 + p · α'²))^(−1/2),   b = −a · p · α'
        inference:  y = x

    Args:
        rate: Probability that a unit is dropped, in [0, 1]. Usual: 0.05 to 0.1.
        noise_shape: Shape of the mask, broadcast against the inputs; `None` entries are taken from
            the inputs.
        seed: Integer seed of the mask's generator. By default drawn at random.
        **kwargs: `name`, `dtype` and `trainable`, as in every `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of any rank.
        training: Whether to drop units. Set by `fit` and `predict`.

    Input shape:
        Any.

    Output shape:
        The same as the input's. A mask of time steps passes through.

    Raises:
        ValueError: If `rate` is outside [0, 1].

    Example:

    >>> import keras
    >>> x = keras.random.normal((100, 100), seed=1)
    >>> y = AlphaDropout(0.2, seed=2)(x, training=True)
    >>> abs(float(keras.ops.mean(y))) < 0.1, 0.9 < float(keras.ops.var(y)) < 1.1
    (True, True)

    Reference: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural networks",
    NeurIPS 2017.
    """

    def __init__(
        self,
        rate: float,
        noise_shape: tuple[int | None, ...] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **kwargs)

    def numbers(self, rate: float) -> tuple[float, ...]:
        """Returns a and b."""
        # At rate 1 nothing is kept: the floor, brought to mean 0, is 0.
        a = (max(1 - rate, 1e-7) * (1 + rate * _FLOOR**2)) ** -0.5
        return a, -a * _FLOOR * rate

    def drop(self, inputs: Any, drawn: Any, rate: Any, *numbers: Any) -> Any:
        """Returns `inputs` where kept, else SELU's floor, brought back to mean 0, variance 1."""
        a, b = (ops.cast(number, inputs.dtype) for number in numbers)
        kept = ops.cast(drawn >= ops.cast(rate, drawn.dtype), inputs.dtype)
        return a * (inputs * kept + _FLOOR * (1 - kept)) + b
