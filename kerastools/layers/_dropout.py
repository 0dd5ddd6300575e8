"""Dropout whose rate can change while the model trains."""

from typing import Any

from kerastools._core.graph.kinds import kind
from kerastools._core.registration import register
from kerastools.layers._mutable_rate import NoiseShapeLayer, scaled


@register
@kind("dropout")
class Dropout(NoiseShapeLayer):
    """Drops each input unit with probability `rate`, which may change in training.

    Keras's `Dropout` bakes its rate into the compiled step: setting it later changes nothing, and a
    layer that was created with rate 0 cannot be switched on. Here the rate is a variable. Setting
    `layer.rate = 0.3`, from a callback say, acts on the next step without compiling again, and the
    rate is saved with the model. Use it where the rate is scheduled, adapted or searched for;
    otherwise it behaves as Keras's layer does.

    With keep probability q = 1 − rate and a mask M of independent Bernoulli(q) draws:

        training:   y = x ⊗ M / q      (so that E[y] = x)
        inference:  y = x

    Args:
        rate: Probability that a unit is dropped, in [0, 1]. Usual: 0.1 to 0.5; recurrent nets 0.2
            to 0.3, convolutional nets 0.4 to 0.5.
        noise_shape: Shape of the mask, broadcast against the inputs; `None` entries are taken from
            the inputs. `(None, 1, features)` drops the same features at every time step.
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
    >>> import numpy as np
    >>> layer = Dropout(0.0, seed=1)
    >>> x = np.ones((1, 10_000), "float32")
    >>> float(keras.ops.mean(layer(x, training=True) == 0))
    0.0
    >>> layer.rate = 0.25
    >>> 0.23 < float(keras.ops.mean(layer(x, training=True) == 0)) < 0.27
    True

    Reference: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way
    to prevent neural networks from overfitting", JMLR 2014.
    """

    def drop(self, inputs: Any, kept: Any, rate: Any) -> Any:
        """Returns `inputs` / (1 − rate) where `kept`, else 0."""
        return scaled(inputs, kept, rate)
