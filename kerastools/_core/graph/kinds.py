"""What each of Keras's layers is: the only list of layer classes in the package.

`kind_of(layer)` answers with the row of the table below that the layer belongs to, and
`is_kind(layer, "dropout", "noise")` asks for one. A layer of another class is known only if its
class says what it is, with `@kind("dropout")`, or if it changes nothing of a class that is known.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import keras

from kerastools._core.keras_private.graph_nodes import ConvLSTMCell, operation_class

_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class Kind:
    """What the layers of one row of the table do.

    The first properties say how an output depends on the inputs in inference, apart from an
    activation that the layer applies itself. A kind that is neither random nor stateful can still
    be made so by an argument of the layer (`dropout` and `stateful` of a recurrent layer), and a
    wrapper or composite by the layers inside it.

    Attributes:
        name: What it is, such as `"convolution"`.
        group: The rows that it belongs to, such as `"kernel"`.
        linear: It is W x + c for fixed weights.
        elementwise: Each value depends on the value at the same place of each input only.
        per_channel: Each channel depends on one channel of the input only.
        identity_in_inference: It returns its input, and does nothing else.
        random: It draws at random in training.
        stateful: A call in training changes what later calls return.
        moving_statistics: It normalizes by the batch in training, by `moving_mean` and
            `moving_variance` in inference.
        activation: The name of the function that it computes, if it is one activation.
        gates: How many gates share its kernels, of a recurrent cell.
    """

    name: str
    group: str
    linear: bool = False
    elementwise: bool = False
    per_channel: bool = False
    identity_in_inference: bool = False
    random: bool = False
    stateful: bool = False
    moving_statistics: bool = False
    activation: str | None = None
    gates: int = 0


# What is not understood is different from all else, draws, and depends on the order of calls.
UNKNOWN = Kind("unknown", "unknown", random=True, stateful=True)

_POINTWISE: dict[str, Any] = {"elementwise": True, "per_channel": True}
_AFFINE: dict[str, Any] = {"linear": True, **_POINTWISE}
_PLACES: dict[str, Any] = {"linear": True, "per_channel": True}
_NO_OP: dict[str, Any] = {**_AFFINE, "identity_in_inference": True}
_NOISE: dict[str, Any] = {**_NO_OP, "random": True}
_BATCH_NORM: dict[str, Any] = {**_AFFINE, "stateful": True, "moving_statistics": True}


def _ranks(name: str) -> str:
    return f"{name}1D {name}2D {name}3D"


_TABLE: tuple[tuple[Kind, str], ...] = (
    (Kind("input", "input", **_NO_OP), "InputLayer"),
    # A kernel, which inputs are multiplied with and summed over.
    (Kind("dense", "kernel", linear=True), "Dense"),
    (Kind("einsum_dense", "kernel", linear=True), "EinsumDense"),
    (Kind("convolution", "kernel", linear=True), _ranks("Conv")),
    (Kind("depthwise_convolution", "kernel", **_PLACES), "DepthwiseConv1D DepthwiseConv2D"),
    (Kind("separable_convolution", "kernel", linear=True), "SeparableConv1D SeparableConv2D"),
    (
        Kind("transposed_convolution", "kernel", linear=True),
        "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
    ),
    # A row of a table for each integer.
    (Kind("embedding", "look_up"), "Embedding ReversibleEmbedding"),
    (Kind("vocabulary", "look_up"), "StringLookup IntegerLookup TextVectorization"),
    (Kind("batch_normalization", "normalization", **_BATCH_NORM), "BatchNormalization"),
    (
        Kind("layer_normalization", "normalization"),
        "LayerNormalization GroupNormalization RMSNormalization",
    ),
    (Kind("unit_normalization", "normalization"), "UnitNormalization"),
    (Kind("dropout", "dropout", **_NOISE), "Dropout"),
    (Kind("spatial_dropout", "dropout", **_NOISE), _ranks("SpatialDropout")),
    (Kind("alpha_dropout", "dropout", **_NOISE), "AlphaDropout"),
    (Kind("gaussian_dropout", "dropout", **_NOISE), "GaussianDropout"),
    (Kind("noise", "noise", **_NOISE), "GaussianNoise"),
    (Kind("identity", "identity", **_NO_OP), "Identity"),
    (Kind("penalty", "penalty", **_AFFINE), "ActivityRegularization"),
    (Kind("masking", "masking"), "Masking"),
    # One activation; of `Activation` its attribute says which.
    (Kind("activation", "activation"), "Activation"),
    (Kind("relu", "activation", **_POINTWISE, activation="relu"), "ReLU"),
    (Kind("leaky_relu", "activation", **_POINTWISE, activation="leaky_relu"), "LeakyReLU"),
    (Kind("prelu", "activation", **_POINTWISE, activation="prelu"), "PReLU"),
    (Kind("elu", "activation", **_POINTWISE, activation="elu"), "ELU"),
    (Kind("softmax", "activation", activation="softmax"), "Softmax"),
    # Several inputs become one.
    (Kind("add", "merge", **_AFFINE), "Add"),
    (Kind("weighted_sum", "merge", **_AFFINE), "Subtract Average"),
    (Kind("extremum", "merge", **_POINTWISE), "Maximum Minimum"),
    (Kind("multiply", "merge", **_POINTWISE), "Multiply"),
    (Kind("dot", "merge"), "Dot"),
    (Kind("concatenate", "merge", linear=True), "Concatenate"),
    # The values of the input at other places.
    (Kind("flatten", "reshape", linear=True), "Flatten"),
    (Kind("reshape", "reshape", linear=True), "Reshape"),
    (Kind("permute", "reshape", linear=True), "Permute"),
    (Kind("repeat", "reshape", **_PLACES), "RepeatVector"),
    (Kind("cropping", "resize", **_PLACES), _ranks("Cropping")),
    (Kind("zero_padding", "resize", **_PLACES), _ranks("ZeroPadding")),
    (Kind("up_sampling", "resize", **_PLACES), _ranks("UpSampling")),
    (Kind("max_pooling", "pooling", per_channel=True), _ranks("MaxPooling")),
    (Kind("average_pooling", "pooling", **_PLACES), _ranks("AveragePooling")),
    (Kind("global_max_pooling", "pooling", per_channel=True), _ranks("GlobalMaxPooling")),
    (Kind("global_average_pooling", "pooling", **_PLACES), _ranks("GlobalAveragePooling")),
    (Kind("adaptive_max_pooling", "pooling", per_channel=True), _ranks("AdaptiveMaxPooling")),
    (Kind("adaptive_average_pooling", "pooling", **_PLACES), _ranks("AdaptiveAveragePooling")),
    # One cell, run over the steps of a sequence.
    (Kind("recurrent", "recurrent"), "RNN SimpleRNN GRU LSTM ConvLSTM1D ConvLSTM2D ConvLSTM3D"),
    (Kind("simple_cell", "cell", gates=1), "SimpleRNNCell"),
    (Kind("gru_cell", "cell", gates=3), "GRUCell"),
    (Kind("lstm_cell", "cell", gates=4), "LSTMCell"),
    (Kind("stacked_cells", "cell"), "StackedRNNCells"),
    # What they do is what the layer in them does, and more.
    (Kind("time_distributed", "wrapper"), "TimeDistributed"),
    (Kind("bidirectional", "wrapper"), "Bidirectional"),
    (Kind("spectral_normalization", "wrapper", stateful=True), "SpectralNormalization"),
    (Kind("wrapper", "wrapper"), "Wrapper"),
    (
        Kind("attention", "composite"),
        "Attention AdditiveAttention MultiHeadAttention GroupQueryAttention",
    ),
    # Features, text, images and sound made ready for a net.
    (Kind("feature_normalization", "preprocessing", **_AFFINE), "Normalization"),
    (Kind("rescaling", "preprocessing", **_AFFINE), "Rescaling"),
    (
        Kind("encoding", "preprocessing"),
        "Discretization CategoryEncoding Hashing HashedCrossing MaxNumBoundingBoxes",
    ),
    (Kind("resizing", "preprocessing"), "Resizing CenterCrop"),
    (
        Kind("image", "preprocessing"),
        "AutoContrast ContrastLimitedAdaptiveHistogramEqualization Equalization Solarization",
    ),
    (Kind("spectrogram", "preprocessing"), "MelSpectrogram STFTSpectrogram"),
    (
        Kind("augmentation", "preprocessing", random=True),
        "AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration "
        "RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing "
        "RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective "
        "RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear "
        "RandomTranslation RandomZoom",
    ),
    # They run whatever they were given.
    (replace(UNKNOWN, name="lambda"), "Lambda"),
    (
        replace(UNKNOWN, name="foreign"),
        "Pipeline JaxLayer FlaxLayer TFSMLayer TorchModuleWrapper",
    ),
)

# Activations among the functions of `keras.ops`, by the class that stands for one in a graph.
_OPERATIONS = (
    "Relu Relu6 LeakyRelu Elu Selu Celu Gelu Silu Sigmoid HardSigmoid LogSigmoid SparseSigmoid "
    "HardSilu Tanh HardTanh TanhShrink SoftShrink HardShrink Softplus SparsePlus Squareplus "
    "Softsign Threshold"
)
_MIXING_OPERATIONS = "Softmax LogSoftmax Sparsemax Glu"

KINDS = {kind.name: kind for kind, _ in _TABLE}


def _activation_operations() -> dict[type, Kind]:
    found = {}
    for names, properties in ((_OPERATIONS, _POINTWISE), (_MIXING_OPERATIONS, {})):
        for name in names.split():
            function = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
            found[operation_class(name)] = Kind(
                function, "activation", **properties, activation=function
            )
    return found


_KIND_OF_CLASS: dict[type, Kind] = {
    # A newer Keras may have classes that are not here, an older one may lack some.
    **{
        getattr(keras.layers, name): kind
        for kind, names in _TABLE
        for name in names.split()
        if hasattr(keras.layers, name)
    },
    ConvLSTMCell: KINDS["lstm_cell"],
    **_activation_operations(),
}


class _Bare:
    annotated: int


# What a subclass may define and still behave as its parent: how it is made, not what it does.
_HARMLESS = vars(_Bare).keys() | {"__init__", "get_config", "from_config"}


def kind(name: str, **properties: Any) -> Callable[[_Class], _Class]:
    """Declares what kind of layer a class of your own is.

    What kerastools does with a kind of layer, such as folding batch normalization through every
    dropout, it then does with these layers too. Nothing is assumed about a class that is not
    declared, unless it inherits from a layer of Keras and overrides nothing but `__init__`,
    `get_config` and `from_config`.

    Args:
        name: The kind, such as `"dropout"`, `"noise"`, `"dense"`, `"layer_normalization"`; what it
            is assumed to do is what Keras's layers of this kind do.
        **properties: In which the class differs: `linear`, `elementwise`, `per_channel`,
            `identity_in_inference`, `random`, `stateful`, `moving_statistics`.

    Raises:
        ValueError: If there is no such kind.
        TypeError: If there is no such property.

    Example:

    >>> from kerastools.folding import fold_batch_norm
    >>> @kind("noise", random=False)
    ... class Hum(keras.layers.Layer):
    ...     def call(self, inputs, training=False):
    ...         return inputs + 0.1 if training else inputs
    >>> parts = [keras.layers.Dense(3), Hum(), keras.layers.BatchNormalization()]
    >>> model = keras.Sequential([keras.Input((4,)), *parts])
    >>> fold_batch_norm(model, return_report=True)[1].num_folded
    1
    """
    if name not in KINDS:
        raise ValueError(f"kind needs one of {', '.join(KINDS)}. Received {name!r}.")
    made = replace(KINDS[name], **properties)

    def declare(cls: _Class) -> _Class:
        _KIND_OF_CLASS[cls] = made
        return cls

    return declare


def kind_of(layer: Any) -> Kind:
    """Returns what a layer, or an operation of a graph, is; `UNKNOWN` if nobody says."""
    if "call" in getattr(layer, "__dict__", ()):
        return UNKNOWN  # The method was replaced.
    return _kind_of_class(type(layer))


def is_kind(layer: Any, *names: str) -> bool:
    """Whether the kind of `layer`, or the group of its kind, is one of `names`."""
    kind = kind_of(layer)
    return kind.name in names or kind.group in names


def parent_kind(layer: Any) -> Kind:
    """Returns the kind of the first known class that `layer` inherits from, whatever it changes."""
    return next((_KIND_OF_CLASS[c] for c in type(layer).__mro__ if c in _KIND_OF_CLASS), UNKNOWN)


def known_class(layer: Any) -> type | None:
    """Returns the class, Keras's own or one with `@kind`, that `layer` behaves as, or `None`."""
    if kind_of(layer) is UNKNOWN:
        return None
    return next((c for c in type(layer).__mro__ if c in _KIND_OF_CLASS), None)


def layer_classes(*names: str) -> list[type]:
    """Returns Keras's classes of some kinds, for rules that are registered by class."""
    return [c for n in names for c, kind in _KIND_OF_CLASS.items() if kind is KINDS[n]]


def unwrapped(layer: Any) -> Any:
    """Returns the layer that makes the output of `layer`: inside a wrapper, or itself."""
    return layer.layer if is_kind(layer, "time_distributed", "spectral_normalization") else layer


def _kind_of_class(cls: type) -> Kind:
    changed: set[str] = set()
    for base in cls.__mro__:
        kind = _KIND_OF_CLASS.get(base)
        if kind is not None:
            return UNKNOWN if any(hasattr(base, name) for name in changed) else kind
        changed |= vars(base).keys() - _HARMLESS
    return UNKNOWN
