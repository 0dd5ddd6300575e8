"""Dropout of whole feature maps, whose rate can change while the model trains."""

from typing import Any

import keras

from kerastools._core.graph.kinds import kind
from kerastools._core.registration import register
from kerastools.layers._mutable_rate import ScaledDropout


@kind("spatial_dropout")
class FeatureMapDropout(ScaledDropout):
    """Base of those that drop one feature map, of one row and channel, as a whole."""

    def mask_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns the shape of the random numbers: one per row and channel."""
        rows, *inner = shape
        ones = (1,) * (len(inner) - 1)
        if getattr(self, "data_format", "channels_last") == "channels_last":
            return (rows, *ones, inner[-1])
        return (rows, inner[0], *ones)


@register
class SpatialDropout1D(FeatureMapDropout, keras.layers.SpatialDropout1D):
    """Keras's spatial dropout for sequences, with a mutable rate: drops whole feature maps.

    Neighboring positions of a feature map hold nearly the same values, so that dropping single
    elements hides little; use this layer after convolutions. `layer.rate = 0.3` acts on the next
    step without compiling again. Otherwise this is Keras's layer: the same mask at the same seed
    and no weights. With keep probability q = 1 − rate and one Bernoulli(q) draw M per row and
    channel:

        training:   y = x ⊗ M / q      (so that E[y] = x)
        inference:  y = x

    Args:
        rate: Probability that a feature map is dropped, in [0, 1]. Usual: 0.1 to 0.3.
        seed: Integer seed of the mask's generator. By default drawn at random.
        name: Name of the layer.
        dtype: Dtype or dtype policy of the layer.

    Call arguments:
        inputs: Tensor of rank 3.
        training: Whether to drop feature maps. Set by `fit` and `predict`.

    Input shape:
        `(batch, steps, channels)`.

    Output shape:
        The same as the input's. A mask of time steps passes through.

    Raises:
        ValueError: If `rate` is outside [0, 1].

    Example:

    >>> import numpy as np
    >>> layer = SpatialDropout1D(0.5, seed=1)
    >>> x = np.ones((2, 8, 100), "float32")
    >>> y = keras.ops.convert_to_numpy(layer(x, training=True)).reshape(2, -1, 100)
    >>> bool((y == y[:, :1]).all()), 0.4 < float((y == 0).mean()) < 0.6
    (True, True)

    Reference: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using
    convolutional networks", CVPR 2015.
    """

    def __init__(
        self, rate: float, seed: int | None = None, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(rate, seed=seed, name=name, dtype=dtype)


class FormattedDropout(FeatureMapDropout):
    """Base of those whose inputs have a data format."""

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(rate, data_format, seed=seed, name=name, dtype=dtype)


@register
class SpatialDropout2D(FormattedDropout, keras.layers.SpatialDropout2D):
    """Keras's spatial dropout for images, with a mutable rate: drops whole feature maps.

    See `SpatialDropout1D`. With keep probability q = 1 − rate and one Bernoulli(q) draw M per row
    and channel:

        training:   y = x ⊗ M / q      (so that E[y] = x)
        inference:  y = x

    Args:
        rate: Probability that a feature map is dropped, in [0, 1]. Usual: 0.1 to 0.3.
        data_format: `"channels_last"` or `"channels_first"`; by default Keras's image data format.
        seed: Integer seed of the mask's generator. By default drawn at random.
        name: Name of the layer.
        dtype: Dtype or dtype policy of the layer.

    Call arguments:
        inputs: Tensor of rank 4.
        training: Whether to drop feature maps. Set by `fit` and `predict`.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height, width)` with
        `"channels_first"`.

    Output shape:
        The same as the input's. A mask of time steps passes through.

    Raises:
        ValueError: If `rate` is outside [0, 1] or `data_format` is unknown.

    Example:

    >>> import numpy as np
    >>> layer = SpatialDropout2D(0.5, seed=1)
    >>> x = np.ones((2, 4, 4, 100), "float32")
    >>> y = keras.ops.convert_to_numpy(layer(x, training=True)).reshape(2, -1, 100)
    >>> bool((y == y[:, :1]).all()), 0.4 < float((y == 0).mean()) < 0.6
    (True, True)

    Reference: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using
    convolutional networks", CVPR 2015.
    """


@register
class SpatialDropout3D(FormattedDropout, keras.layers.SpatialDropout3D):
    """Keras's spatial dropout for volumes, with a mutable rate: drops whole feature maps.

    See `SpatialDropout1D`. With keep probability q = 1 − rate and one Bernoulli(q) draw M per row
    and channel:

        training:   y = x ⊗ M / q      (so that E[y] = x)
        inference:  y = x

    Args:
        rate: Probability that a feature map is dropped, in [0, 1]. Usual: 0.1 to 0.3.
        data_format: `"channels_last"` or `"channels_first"`; by default Keras's image data format.
        seed: Integer seed of the mask's generator. By default drawn at random.
        name: Name of the layer.
        dtype: Dtype or dtype policy of the layer.

    Call arguments:
        inputs: Tensor of rank 5.
        training: Whether to drop feature maps. Set by `fit` and `predict`.

    Input shape:
        `(batch, depth, height, width, channels)`, or `(batch, channels, depth, height, width)` with
        `"channels_first"`.

    Output shape:
        The same as the input's. A mask of time steps passes through.

    Raises:
        ValueError: If `rate` is outside [0, 1] or `data_format` is unknown.

    Example:

    >>> import numpy as np
    >>> layer = SpatialDropout3D(0.5, seed=1)
    >>> x = np.ones((2, 4, 4, 4, 100), "float32")
    >>> y = keras.ops.convert_to_numpy(layer(x, training=True)).reshape(2, -1, 100)
    >>> bool((y == y[:, :1]).all()), 0.4 < float((y == 0).mean()) < 0.6
    (True, True)

    Reference: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using
    convolutional networks", CVPR 2015.
    """


@register
class SpatialDropout(SpatialDropout2D):
    """Spatial dropout with a mutable rate for any rank: drops whole feature maps.

    `SpatialDropout1D`, `SpatialDropout2D` and `SpatialDropout3D` in one layer, for models whose
    rank is a choice. With keep probability q = 1 − rate and one Bernoulli(q) draw M per row and
    channel:

        training:   y = x ⊗ M / q      (so that E[y] = x)
        inference:  y = x

    Args:
        rate: Probability that a feature map is dropped, in [0, 1]. Usual: 0.1 to 0.3.
        data_format: `"channels_last"` or `"channels_first"`; by default Keras's image data format.
        seed: Integer seed of the mask's generator. By default drawn at random.
        name: Name of the layer.
        dtype: Dtype or dtype policy of the layer.

    Call arguments:
        inputs: Tensor of rank 2 or more.
        training: Whether to drop feature maps. Set by `fit` and `predict`.

    Input shape:
        `(batch, ..., channels)`, or `(batch, channels, ...)` with `"channels_first"`.

    Output shape:
        The same as the input's. A mask of time steps passes through.

    Raises:
        ValueError: If `rate` is outside [0, 1] or `data_format` is unknown.

    Example:

    >>> import numpy as np
    >>> layer = SpatialDropout(0.5, seed=1)
    >>> y = keras.ops.convert_to_numpy(layer(np.ones((2, 8, 100), "float32"), training=True))
    >>> bool((y == y[:, :1]).all()), 0.4 < float((y == 0).mean()) < 0.6
    (True, True)

    Reference: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using
    convolutional networks", CVPR 2015.
    """

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(rate, data_format, seed=seed, name=name, dtype=dtype)
        self.input_spec = None
