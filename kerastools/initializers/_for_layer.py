"""The initializers that suit a layer: the scheme by its activation, the fans by its kind."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.activations import activation_name, own_activation
from kerastools._core.graph.fans import kernel_axes, kernel_holder, met_fraction, num_gates
from kerastools.initializers._gated_orthogonal import GatedOrthogonal
from kerastools.initializers._schemes import SCHEMES
from kerastools.initializers._variance_scaling import VarianceScaling

# Activations that zero about half of their input's second moment, as ReLU does.
RECTIFIERS = (
    *("relu", "relu6", "leaky_relu", "prelu", "threshold"),
    *("elu", "celu", "gelu", "silu", "hard_silu", "mish"),
)


def for_layer(
    layer: keras.layers.Layer,
    scheme: str = "auto",
    seed: int | None = None,
    activation: Any = None,
    spatial_shape: Sequence[int] | None = None,
) -> dict[str, keras.initializers.Initializer]:
    """Returns the initializer that suits each kernel of `layer`, by the variable's name.

    Use it where Keras's own fans are wrong: depthwise, separable and transposed convolutions, the
    fused gates of recurrent cells. `kerastools.calibration.initialize` does it for a whole model.

    With `"auto"` the activation decides: He for ReLU and its variants, LeCun for SELU, Glorot for
    tanh, logistic, softmax and none. Three kernels are decided otherwise. The depthwise half of a
    separable convolution is followed by no activation, so LeCun keeps the second moment of its
    signal. A recurrent kernel is orthogonal gate by gate. An embedding is a look-up that sums
    nothing: `"auto"` has no initializer for it and leaves it to the layer's own.

    Args:
        layer: A layer, built or not. Of one that is made of others (`Bidirectional`,
            `TimeDistributed`, `MultiHeadAttention`) each of those; `initialize` enters them.
        scheme: `"auto"`, or one of `"glorot_normal"`, `"glorot_uniform"`, `"he_normal"`,
            `"he_uniform"`, `"lecun_normal"`, `"lecun_uniform"` for all kernels of the layer.
        seed: Integer from which each kernel gets a seed of its own; `None` gives new values each
            time.
        activation: The activation that follows the layer, where it is not the layer's own: a
            name, a function or a layer. By default the layer's own.
        spatial_shape: Positions of the input, such as `(8, 8)`, for convolutions with
            `padding="same"`: at the rim some weights meet zeros only, and fan_in is counted without
            those, on average over the positions. A 3 × 3 filter on 4 × 4 positions meets 0.69 of
            its weights. By default the padding is not counted, as in Keras and in the papers.

    Returns:
        A dictionary such as `{"kernel": HeNormal(...)}`; empty for a layer without kernels and for
        kinds of layers that are not known here.

    Raises:
        ValueError: If the scheme is unknown.
        TypeError: If `layer` is not a Keras layer.

    Example:

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3, activation="relu")
    >>> initializer = for_layer(layer, seed=1)["kernel"]
    >>> type(initializer).__name__, initializer.fans((3, 3, 64, 1))
    ('HeNormal', (9.0, 9.0))
    >>> layer.depthwise_initializer = initializer  # before the layer is built
    """
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            f"for_layer needs a Keras layer. Received {layer!r} of type {type(layer).__name__}. "
            "For a whole model call kerastools.calibration.initialize(model)."
        )
    check_scheme(scheme, "for_layer")
    layer = kernel_holder(layer)
    if activation is None:
        activation = own_activation(layer)
    axes = kernel_axes(layer)
    seeds = np.random.SeedSequence(seed).generate_state(len(axes)).tolist()
    initializers = {}
    for (kernel, its_axes), own_seed in zip(axes.items(), seeds, strict=True):
        kernel_seed = None if seed is None else own_seed
        chosen = _choose(scheme, kernel, activation)
        if chosen == "orthogonal":
            initializers[kernel] = GatedOrthogonal(gates=num_gates(layer), seed=kernel_seed)
        elif chosen:
            fans = _fans(layer, kernel, its_axes, spatial_shape)
            initializers[kernel] = SCHEMES[chosen](seed=kernel_seed, **fans)
    return initializers


def with_right_fans(
    initializer: Any, layer: Any, kernel: str, spatial_shape: Sequence[int] | None = None
) -> Any:
    """Returns a layer's own initializer of `kernel` with the fans that the layer really has.

    Orthogonal kernels of gates become orthogonal gate by gate. All others are returned as they are.
    """
    layer = kernel_holder(layer)
    axes = kernel_axes(layer).get(kernel)
    if axes is None or kernel == "embeddings":
        return initializer
    cls = type(initializer)
    if cls is keras.initializers.Orthogonal and num_gates(layer) > 1:
        return GatedOrthogonal(gain=initializer.gain, gates=num_gates(layer))
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer
    fans = _fans(layer, kernel, axes, spatial_shape)
    for scheme in SCHEMES.values():
        if cls is getattr(keras.initializers, scheme.__name__):
            return scheme(**fans)
    if cls is not keras.initializers.VarianceScaling:
        return initializer
    return VarianceScaling(initializer.scale, initializer.mode, initializer.distribution, **fans)


def _fans(layer: Any, kernel: str, axes: Any, spatial_shape: Sequence[int] | None) -> Any:
    fans = dataclasses.asdict(axes)
    if spatial_shape is not None and kernel != "pointwise_kernel":
        fans["in_divisor"] /= met_fraction(layer, spatial_shape)
    return fans


def check_scheme(scheme: str, caller: str) -> None:
    """Raises unless `scheme` is known."""
    if scheme != "auto" and scheme not in SCHEMES:
        raise ValueError(
            f'{caller} needs scheme to be "auto" or one of {sorted(SCHEMES)}. '
            f"Received scheme={scheme!r}."
        )


def _choose(scheme: str, kernel: str, activation: Any) -> str:
    """Returns the name of the scheme for one kernel, empty where it is the layer's own."""
    if scheme != "auto":
        return scheme
    if kernel == "embeddings":
        return ""
    if kernel == "recurrent_kernel":
        return "orthogonal"
    if kernel == "depthwise_kernel":
        return "lecun_normal"
    name = activation_name(activation)
    if name in RECTIFIERS:
        return "he_normal"
    return "lecun_normal" if name == "selu" else "glorot_normal"
