"""The max-norm constraints that are right for a layer's kernels."""

import keras

from kerastools._core.graph.fans import incoming_axes, kernel_holder
from kerastools.constraints._max_norm import MaxNorm


def for_layer(layer: keras.layers.Layer, max_value: float = 2.0) -> dict[str, MaxNorm]:
    """Returns the `MaxNorm` that bounds each unit's incoming weights, by the variable's name.

    A constraint sees only a kernel's shape, and the same shape is laid out differently from layer
    to layer. Use this where `MaxNorm`'s `"auto"` does not reach:

    | layer | what is bounded |
    |---|---|
    | Dense, SimpleRNN, LSTM, GRU | a column, of one gate |
    | Conv, grouped Conv, ConvLSTM | a whole filter |
    | DepthwiseConv | one channel's filter |
    | SeparableConv | one channel's filter; a column of the pointwise half |
    | ConvTranspose | all weights into one output channel |
    | EinsumDense, the projections of MultiHeadAttention | all weights into one output value |
    | Embedding | a row |

    Args:
        layer: A layer, built or not. Of one that is made of others (`Bidirectional`,
            `TimeDistributed`, `MultiHeadAttention`) each of those.
        max_value: r, the largest norm allowed; in units of the weights, greater than 0.

    Returns:
        A dictionary such as `{"kernel": MaxNorm(...)}`; empty for a layer without kernels and for
        kinds of layers that are not known here.

    Raises:
        ValueError: If `max_value` is not greater than 0.
        TypeError: If `layer` is not a Keras layer.

    Example:

    >>> import keras
    >>> layer = keras.layers.Conv2DTranspose(8, 3)
    >>> for_layer(layer, 1.5)["kernel"].axis
    (0, 1, 3)
    >>> layer.kernel_constraint = for_layer(layer, 1.5)["kernel"]  # before the layer is built
    """
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            f"for_layer needs a Keras layer. Received {layer!r} of type {type(layer).__name__}."
        )
    axes = incoming_axes(kernel_holder(layer))
    return {name: MaxNorm(max_value, axis) for name, axis in axes.items()}
