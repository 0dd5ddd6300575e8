"""The decoder that runs an encoder backwards, layer by layer."""

from dataclasses import dataclass
from typing import Any

import keras

from kerastools._core.graph.activations import is_activation, own_activation
from kerastools._core.graph.calls import Call, Graph, read_graph
from kerastools._core.graph.kinds import is_kind, kind_of
from kerastools._core.graph.rebuild import open_layers
from kerastools.calibration import initialize
from kerastools.pretraining._transposed import Transposed

_POOLINGS = ("max_pooling", "average_pooling")
_GLOBAL_POOLINGS = ("global_max_pooling", "global_average_pooling")
_RESHAPES = ("flatten", "reshape")
# What has nothing to undo: the decoder does without.
_ONE_WAY = ("dropout", "noise", "normalization", "penalty", "identity")


@dataclass(frozen=True, eq=False)
class Step:
    """One layer of an encoder that is a chain.

    Attributes:
        path: The layer's name, after the names of the models that it is inside of.
        layer: The layer.
        input: The symbolic tensor it takes.
        output: The symbolic tensor it returns.
        activation: The activation that made `input`, or `None`: what the mirrored layer ends in.
    """

    path: str
    layer: Any
    input: Any
    output: Any
    activation: Any


def read_chain(encoder: keras.Model, caller: str, enter: bool = True) -> list[Step]:
    """Returns the layers of `encoder` in order, or raises unless each can be mirrored.

    Nested models are entered, and so are layers of the user's own that are proved to do no more
    than call layers. With `enter=False` none is, and the tensors of the steps are the encoder's.
    """
    graph = read_graph(encoder, caller)
    if enter:
        opened = open_layers(encoder, lambda layer: kind_of(layer).name == "unknown")
        graph = Graph(opened).entered()
    steps: list[Step] = []
    tensor, activation = graph.inputs[0], None
    for call in graph.calls:
        _check(call, tensor, caller)
        steps.append(Step(call.path, call.operation, tensor, call.outputs[0], activation))
        tensor = call.outputs[0]
        if is_kernel_layer(call.operation) or is_activation(call.operation):
            activation = own_activation(call.operation)
        elif is_kind(call.operation, "normalization"):
            activation = None
    if not any(is_kernel_layer(step.layer) for step in steps):
        raise ValueError(
            f"{caller} needs an encoder with at least one Dense or Conv layer to mirror. Received "
            f'model "{encoder.name}" with the layers {[step.layer.name for step in steps]}.'
        )
    return steps


def is_kernel_layer(layer: Any) -> bool:
    """Whether the mirror of `layer` has weights."""
    return is_kind(layer, "dense", "convolution")


def mirror(
    steps: list[Step], output_activation: Any, tied: bool, seed: int, name: str
) -> keras.Model:
    """Returns the decoder of a chain; its last layer with weights ends in `output_activation`.

    Args:
        steps: The chain, from the encoder's input on.
        output_activation: An activation or `None`.
        tied: Whether it uses the encoder's kernels, transposed.
        seed: Of the initial weights; each layer gets the scheme of its activation.
        name: The name of the decoder.
    """
    inputs = keras.Input(steps[-1].output.shape[1:])
    outputs = inputs
    first = next(step for step in steps if is_kernel_layer(step.layer))
    for step in reversed(steps):
        activation = output_activation if step is first else step.activation
        for layer in _mirrored(step, activation, tied):
            outputs = layer(outputs)
    decoder = keras.Model(inputs, outputs, name=name)
    return decoder if tied else initialize(decoder, seed=seed)


def _check(call: Call, tensor: Any, caller: str) -> None:
    layer = call.operation
    advice = "Pass a decoder of your own: a keras.Model from the code to the input."
    if len(call.inputs) != 1 or call.inputs[0] is not tensor or len(call.outputs) != 1:
        raise ValueError(
            f"{caller} mirrors encoders that are a chain, in which each layer takes what the one "
            f'before returns. Received one in which "{layer.name}" does not. {advice}'
        )
    known = ("activation", *_POOLINGS, *_GLOBAL_POOLINGS, *_RESHAPES, *_ONE_WAY)
    if not (is_kernel_layer(layer) or is_kind(layer, *known)):
        raise ValueError(
            f"{caller} knows the mirror of Dense, Conv1D to Conv3D, pooling, Flatten and Reshape. "
            f'Received layer "{layer.name}" of type {type(layer).__name__}. {advice}'
        )
    if is_kind(layer, "convolution"):
        spread = layer.groups != 1 or set(layer.dilation_rate) != {1} or layer.padding == "causal"
        if spread or layer.data_format != "channels_last":
            raise ValueError(
                f"{caller} mirrors convolutions with groups=1, dilation_rate=1, channels last and "
                f'padding "same" or "valid". Received layer "{layer.name}". {advice}'
            )


def _mirrored(step: Step, activation: Any, tied: bool) -> list[Any]:
    """Returns the layers that take `step.output` back to `step.input`."""
    layer, target, code = step.layer, step.input.shape[1:], step.output.shape[1:]
    name, activation = f"mirrored_{step.path.replace('/', '_')}", _fresh(activation)
    if is_kind(layer, "dense"):
        if tied:
            return [Transposed(layer, activation, name=name)]
        return [keras.layers.Dense(target[-1], activation=activation, name=name)]
    if is_kind(layer, "convolution"):
        padding = _output_padding(layer, code[:-1], target[:-1])
        if tied:
            return [Transposed(layer, activation, output_padding=padding, name=name)]
        grown = target[:-1]
        if padding and any(p >= s for p, s in zip(padding, layer.strides, strict=True)):
            # Keras refuses it, for even kernels on some axes; its own choice is too long on others.
            padding, grown = None, [n * s for n, s in zip(code[:-1], layer.strides, strict=True)]
        return [
            getattr(keras.layers, f"Conv{layer.rank}DTranspose")(
                target[-1],
                layer.kernel_size,
                strides=layer.strides,
                padding=layer.padding,
                output_padding=padding,
                activation=activation,
                name=name,
            ),
            *_fit(grown, target[:-1]),
        ]
    if is_kind(layer, *_POOLINGS):
        size = tuple(layer.strides)
        grown = [n * s for n, s in zip(code[:-1], size, strict=True)]
        return [_up_sampling(size), *_fit(grown, target[:-1])]
    if is_kind(layer, *_GLOBAL_POOLINGS):
        rank = len(target) - 1
        single = (*(1 for _ in range(rank)), target[-1])
        return [keras.layers.Reshape(single), _up_sampling(target[:-1])]
    if is_kind(layer, *_RESHAPES):
        return [keras.layers.Reshape(target)]
    return []


def _fresh(activation: Any) -> Any:
    """Returns a copy of an activation that is a layer, for its weights are not to be shared."""
    if kind_of(activation).name == "activation":
        return activation.activation
    if isinstance(activation, keras.layers.Layer):
        return type(activation).from_config(
            {**activation.get_config(), "name": f"mirrored_{activation.name}"}
        )
    return activation


def _output_padding(layer: Any, code: Any, target: Any) -> tuple[int, ...] | None:
    """Returns what a transposed convolution needs to reach `target`, `None` if nothing."""
    sizes = list(zip(code, layer.strides, layer.kernel_size, target, strict=True))
    same = layer.padding == "same"
    if all(n * s + (0 if same else max(k - s, 0)) == t for n, s, k, t in sizes):
        return None
    return tuple(t - ((n - 1) * s + k - (2 * (k // 2) if same else 0)) for n, s, k, t in sizes)


def _fit(sizes: Any, target: Any) -> list[Any]:
    """Returns the layers that bring positions to the target's number, at their end."""
    rank = len(sizes)
    missing = [(0, max(t - n, 0)) for n, t in zip(sizes, target, strict=True)]
    surplus = [(0, max(n - t, 0)) for n, t in zip(sizes, target, strict=True)]
    layers = []
    for name, amounts in (("ZeroPadding", missing), ("Cropping", surplus)):
        if any(end for _, end in amounts):
            amount = amounts[0] if rank == 1 else tuple(amounts)
            layers.append(getattr(keras.layers, f"{name}{rank}D")(amount))
    return layers


def _up_sampling(size: Any) -> Any:
    rank = len(size)
    return getattr(keras.layers, f"UpSampling{rank}D")(size[0] if rank == 1 else tuple(size))
