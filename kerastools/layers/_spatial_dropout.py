"""Dropout of whole feature maps, whose rate can change while the model trains."""

from typing import Any

import keras
from keras import ops

from kerastools._core.graph.kinds import kind
from kerastools._core.registration import register
from kerastools.layers._mutable_rate import LiveRateLayer, scaled


@register
@kind("spatial_dropout")
class SpatialDropout(LiveRateLayer):
    """Drops whole channels with probability `rate`, which may change in training.

    Neighbouring positions of a feature map hold nearly the same, so that dropping single elements
    hides little; use this one after convolutions, on sequences, images and volumes alike. It is
    Keras's `SpatialDropout1D`, `SpatialDropout2D` and `SpatialDropout3D` in one, with the live rate
    of `kerastools.layers.Dropout`: setting `layer.rate` acts on the next step without compiling
    again. With keep probability q = 1 − rate and one Bernoulli(q) draw M per row and channel:

        training:   y = x ⊗ M / q      (so that E[y] = x)
        inference:  y = x

    Args:
        rate: Probability that a channel is dropped, in [0, 1]. Usual in convolutional nets: 0.1 to
            0.3 here, where a draw hides more than in `Dropout`.
        data_format: `"channels_last"` or `"channels_first"`; by default Keras's image data format.
        seed: Integer seed of the mask's generator. By default drawn at random.
        **kwargs: `name`, `dtype` and `trainable`, as in every `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of rank 2 or more.
        training: Whether to drop channels. Set by `fit` and `predict`.

    Input shape:
        `(batch, ..., channels)`, or `(batch, channels, ...)` with `"channels_first"`.

    Output shape:
        The same as the input's. A mask of time steps passes through.

    Raises:
        ValueError: If `rate` is outside [0, 1] or `data_format` is unknown.

    Example:

    >>> import numpy as np
    >>> layer = SpatialDropout(0.5, seed=1)
    >>> y = keras.ops.convert_to_numpy(layer(np.ones((2, 4, 4, 100), "float32"), training=True))
    >>> bool((y == y[:, :1, :1]).all()), 0.4 < float((y == 0).mean()) < 0.6
    (True, True)

    Reference: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using
    convolutional networks", CVPR 2015.
    """

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, seed, **kwargs)
        data_format = data_format or keras.config.image_data_format()
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                'SpatialDropout needs data_format to be "channels_last" or "channels_first". '
                f"Received data_format={data_format!r}."
            )
        self.data_format = data_format

    def mask_shape(self, inputs: Any) -> tuple[Any, ...]:
        """Returns one element per row and channel."""
        rows, *inner = ops.shape(inputs)
        ones = (1,) * (len(inner) - 1)
        if self.data_format == "channels_last":
            return (rows, *ones, inner[-1])
        return (rows, inner[0], *ones)

    def drop(self, inputs: Any, kept: Any, rate: Any) -> Any:
        """Returns `inputs` / (1 − rate) where `kept`, else 0."""
        return scaled(inputs, kept, rate)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the rate as it is now."""
        return {**super().get_config(), "data_format": self.data_format}
