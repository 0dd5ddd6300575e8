"""The graph of a functional or Sequential model, the layers inside a layer, unexported classes.

Keras shows a model's layers and symbolic tensors, but not which call of which layer made which
tensor, nor the layers inside a layer that is no model, nor the mask that travels with a tensor,
nor the classes of the cell in a convolutional LSTM and of what `keras.ops` functions leave in a
graph (to make one just for its class would count up the names of later layers, and draw a seed).
"""

import copy
from typing import Any

from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell as ConvLSTMCell
from keras.src.models import functional as functional_module
from keras.src.models.functional import Functional
from keras.src.models.sequential import Sequential
from keras.src.ops import nn, numpy

from kerastools._core.keras_private.patched import unpatched

# Whether a layer's `training` argument that a graph was made with is obeyed where the model is
# called with another. Up to 3.15 Keras overrides it, by a function that is gone since.
RECORDED_TRAINING_HOLDS = not hasattr(functional_module, "operation_fn")


def functional_part(model: Any) -> Any:
    """Returns the functional model that holds the graph of `model`, or `None`.

    A Sequential model keeps one of its own; one that was called on a structure of tensors has none.
    """
    if isinstance(model, Sequential):
        return model._functional
    return model if isinstance(model, Functional) else None


def computes_its_graph(model: Any) -> bool:
    """Whether `model` has a graph and no `call` of its own, which could compute something else."""
    if functional_part(model) is None:
        return False
    return unpatched(model, "call") in (Functional.call, Sequential.call)


def recorded_nodes(functional: Any) -> list[Any]:
    """Returns Keras's records of the calls in a graph, in the order in which Keras makes them.

    Each has `operation`, `arguments.args`, `arguments.kwargs` and `outputs`, flat. `get_config()`
    is public, but serializes every layer, which fails for functions that close over objects.
    """
    return [
        node
        for depth in sorted(functional._nodes_by_depth, reverse=True)
        for node in functional._nodes_by_depth[depth]
        if not node.is_input
    ]


def as_inputs(functional: Any, x: Any) -> list[Any]:
    """Returns `x` as the flat tensors that a call of `functional` starts from.

    Keras converts the dtypes, and adds or drops a last axis of size 1 where the rank asks for it.
    """
    return list(functional._standardize_inputs(x))


def maker_of(tensor: Any) -> Any:
    """Returns the operation that made a symbolic tensor, or `None` where that is not recorded."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation


def mask_of(tensor: Any) -> Any:
    """Returns the mask that travels with a tensor, or `None`."""
    return get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Lets `mask` travel with a tensor, as Keras does with masks that a model is called with."""
    set_keras_mask(tensor, mask)


def layers_inside(layer: Any, recursive: bool = True) -> list[Any]:
    """Returns the layers inside `layer`, each once, parents before children.

    Public only on models; blocks such as `MultiHeadAttention` hold layers, too.
    """
    return list(layer._flatten_layers(include_self=False, recursive=recursive))


def shape_of_lambda(layer: Any) -> Any:
    """Returns the `output_shape` that a `Lambda` was made with; its config does not hold it."""
    return layer._output_shape


def twin_of_function(operation: Any) -> Any:
    """Returns a copy of a `keras.ops` function without the records of the original's calls.

    It has no state, but there is no public way to make it again.
    """
    twin = copy.copy(operation)
    twin._inbound_nodes, twin._outbound_nodes = [], []
    return twin


def operation_class(name: str) -> Any:
    """Returns the class of an operation, such as `"Relu"`, or `None` if this Keras has none."""
    return getattr(nn, name, None) or getattr(numpy, name, None)
