"""Dropout whose rate can change while the model trains."""

from typing import Any

import keras
from keras import ops

from kerastools._core._registration import register


@register
class Dropout(keras.layers.Layer):
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
        super().__init__(**kwargs)
        rate = _check_rate(rate, type(self).__name__)
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        self.seed = seed
        self.supports_masking = True
        self.seed_generator = keras.random.SeedGenerator(seed)
        # Float32 whatever the policy: bfloat16 would round 0.1 to 0.1001.
        self._rate = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(rate),
            dtype="float32",
            trainable=False,
            autocast=False,
            name="rate",
        )
        self.built = True

    @property
    def rate(self) -> Any:
        """The drop probability, a scalar variable; assign a number in [0, 1] to change it."""
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate.assign(_check_rate(value, type(self).__name__))

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns `inputs` with units dropped if `training`, else `inputs`."""
        if not training:
            return inputs
        shape = ops.shape(inputs)
        if self.noise_shape is not None:
            shape = tuple(
                actual if wanted is None else wanted
                for actual, wanted in zip(shape, self.noise_shape, strict=True)
            )
        keep = 1.0 - ops.convert_to_tensor(self._rate)
        drawn = keras.random.uniform(shape, seed=self.seed_generator, dtype="float32")
        # At rate 1 nothing is kept: 0 / 0 must not reach the output.
        scale = ops.where(drawn < keep, 1.0 / ops.maximum(keep, 1e-7), 0.0)
        return inputs * ops.cast(scale, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the rate as it is now."""
        config = super().get_config()
        # The variable's exact value printed shortly: 0.1 and not 0.10000000149.
        rate = round(float(self._rate.numpy()), 7)
        return {**config, "rate": rate, "noise_shape": self.noise_shape, "seed": self.seed}


def _check_rate(rate: Any, name: str) -> float:
    value = float(rate)
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"{name} needs a rate in [0, 1], the probability that a unit is dropped. Received "
            f"rate={value:g}. For 30 % pass 0.3."
        )
    return value
