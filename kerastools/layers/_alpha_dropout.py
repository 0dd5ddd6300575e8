"""Dropout for SELU nets, whose rate can change while the model trains."""

from typing import Any

from keras import ops

from kerastools._core.graph.kinds import kind
from kerastools._core.registration import register
from kerastools.layers._mutable_rate import NoiseShapeLayer

# SELU's value at minus infinity, −scale · α.
_FLOOR = -1.7580993408473766


@register
@kind("alpha_dropout")
class AlphaDropout(NoiseShapeLayer):
    """Drops units of a SELU net to SELU's floor, and keeps mean 0 and variance 1.

    Use it behind SELU activations, where `Dropout` would break the normalisation that SELU rests
    on. As in `kerastools.layers.Dropout` the rate is a variable: setting `layer.rate` acts on the
    next step without compiling again. With p = rate, a mask M of Bernoulli(1 − p) draws and SELU's
    floor α' = −1.7581:

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

    def drop(self, inputs: Any, kept: Any, rate: Any) -> Any:
        """Returns `inputs` where `kept`, else SELU's floor, brought back to mean 0, variance 1."""
        # At rate 1 nothing is kept: the floor, brought to mean 0, is 0.
        a = 1 / ops.sqrt(ops.maximum(1.0 - rate, 1e-7) * (1.0 + rate * _FLOOR**2))
        b = -a * rate * _FLOOR
        x = ops.where(kept, ops.cast(inputs, "float32"), _FLOOR)
        return ops.cast(a * x + b, inputs.dtype)
