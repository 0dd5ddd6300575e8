"""Dropout whose rate can change while the model trains."""

from typing import Any

import keras

from kerastools._core.graph.kinds import kind
from kerastools._core.registration import register
from kerastools.layers._mutable_rate import ScaledDropout


@register
@kind("dropout")
class Dropout(ScaledDropout, keras.layers.Dropout):
    """Keras's dropout with a mutable rate: sets each input unit to 0 with probability `rate`.

    Keras compiles the rate into the training step: setting it later changes nothing, and a layer
    created with rate 0 cannot be switched on. Here `layer.rate = 0.3`, from a callback for
    instance, acts on the next step without compiling again. Otherwise this is Keras's layer: the
    same mask at the same seed, no weights, and weights files that load either way. `save` keeps the
    current rate.

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
        ValueError: If `rate` is outside [0, 1] or `noise_shape` is not a shape.

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

    def __init__(
        self,
        rate: float,
        noise_shape: tuple[int | None, ...] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **kwargs)
