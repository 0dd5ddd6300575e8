"""A layer run backwards with its own weights."""

from typing import Any

import keras
from keras import ops

from kerastools._core.graph.kinds import is_kind
from kerastools._core.registration import register


@register
class Transposed(keras.layers.Layer):
    """The mirror of a dense or convolutional layer, which uses that layer's kernel, transposed.

    The decoder of an autoencoder with tied weights: half the weights to learn, and no scale that
    encoder and decoder can push to each other. With W the kernel of `layer`:

        Dense:  y = activation(x Wᵀ + b)
        Conv:   y = activation(conv_transpose(x, W) + b)

    Without activation and bias it is the adjoint: ⟨layer(u), x⟩ = ⟨u, transposed(x)⟩. Only b is
    this layer's own; W stays the other's, which must stand in the same model to be trained and is
    saved and loaded with it as one variable.

    Args:
        layer: A built `Dense`, `Conv1D`, `Conv2D` or `Conv3D`; groups and dilation 1.
        activation: What is applied to the result. By default none.
        output_padding: For convolutions with strides: how many more positions the output has than
            the smallest input that gives the same number of windows, per axis. By default Keras's
            choice, stride × positions for padding `"same"`.
        use_bias: Whether b is added.
        **kwargs: `name`, `dtype` and `trainable`, as in every `keras.layers.Layer`.

    Input shape:
        What `layer` returns.

    Output shape:
        What `layer` takes.

    Raises:
        TypeError: If `layer` is of another kind.
        ValueError: If `layer` is not built, or its groups or dilation are not 1.

    Example:

    >>> import numpy as np
    >>> dense = keras.layers.Dense(2, use_bias=False)
    >>> dense.build((None, 3))
    >>> dense.set_weights([np.array([[1, 0], [0, 1], [1, 1]])])
    >>> print(keras.ops.convert_to_numpy(Transposed(dense)(np.array([[10, 1]]))))
    [[10.  1. 11.]]

    Reference: Vincent, Larochelle, Lajoie, Bengio and Manzagol, "Stacked denoising autoencoders",
    JMLR 2010, section 2.2.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        activation: Any = None,
        output_padding: tuple[int, ...] | None = None,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check(layer)
        self.layer = layer
        self.activation = keras.activations.get(activation)
        self.output_padding = None if output_padding is None else tuple(output_padding)
        self.use_bias = use_bias

    def build(self, input_shape: Any) -> None:
        """Creates the bias."""
        self.bias = None
        if self.use_bias:
            # A kernel of Dense is (in, out), one of Conv (..., in, out).
            width = self.layer.kernel.shape[-2]
            self.bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        """Returns `inputs` taken back through the layer."""
        kernel = ops.cast(self.layer.kernel, self.compute_dtype)
        if is_kind(self.layer, "dense"):
            outputs = ops.matmul(inputs, ops.transpose(kernel))
        else:
            outputs = ops.conv_transpose(
                inputs,
                kernel,
                strides=self.layer.strides,
                padding=self.layer.padding,
                output_padding=self.output_padding,
                data_format="channels_last",
            )
        if self.bias is not None:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "activation": keras.activations.serialize(self.activation),
            "output_padding": self.output_padding,
            "use_bias": self.use_bias,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Transposed":
        """Returns the layer that `get_config` described."""
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})


def _check(layer: Any) -> None:
    if not is_kind(layer, "dense", "convolution"):
        raise TypeError(
            f"Transposed needs a Dense, Conv1D, Conv2D or Conv3D layer. Received {layer!r} of type "
            f"{type(layer).__name__}."
        )
    if not layer.built:
        raise ValueError(
            f'Transposed needs a built layer. Received layer "{layer.name}" without a kernel. Call '
            "layer.build(input_shape) first, or take it from a built model."
        )
    if is_kind(layer, "convolution"):
        spread = layer.groups != 1 or set(layer.dilation_rate) != {1}
        if spread or layer.data_format != "channels_last" or layer.padding == "causal":
            raise ValueError(
                f"Transposed needs a convolution with groups=1, dilation_rate=1, channels last and "
                f'padding "same" or "valid". Received layer "{layer.name}" with groups='
                f"{layer.groups}, dilation_rate={layer.dilation_rate}, data_format="
                f"{layer.data_format!r} and padding={layer.padding!r}."
            )
