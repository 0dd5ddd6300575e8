"""Reading the graph of a functional or Sequential model, and copying its parts.

Keras shows a model's layers, but not which call of which layer feeds which; that lives in private
attributes. Every use of them by kerastools stands in this file.
"""

import copy
import tempfile
from collections import Counter
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.models.sequential import Sequential

from kerastools._core.checks import require_graph


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation (a layer, a nested model or a `keras.ops` function) in a graph.

    Attributes:
        operation: What is called.
        inputs: The symbolic tensors among the arguments, in order, repeated if passed twice.
        outputs: The symbolic tensors it returned, flattened.
        node: Keras's record of the call.
    """

    operation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    node: Any

    def argument(self, name: str) -> Any:
        """Returns the argument that was passed by keyword as `name`, or `None`."""
        return self.node.arguments.kwargs.get(name)

    def first_argument(self) -> Any:
        """Returns the first positional argument, for a model the structure of its inputs."""
        return next(iter(self.node.arguments.args), None)

    def has_explicit_mask(self) -> bool:
        """Whether a mask was passed by hand; Keras records those that travel with a tensor too."""
        mask = self.argument("mask")
        return mask is not None and mask is not getattr(self.inputs[0], "_keras_mask", None)

    def filled_in(self, tensors: dict[int, Any]) -> tuple[Any, Any]:
        """Returns the positional and keyword arguments, with `tensors` by id for the symbolic."""
        return self.node.arguments.fill_in(tensors)


class Graph:
    """The calls of a functional or Sequential model in the order in which they can be computed.

    Attributes:
        model: The model that was read; it is never changed.
        inputs: Its symbolic inputs, flattened; `input_structure` has them as the model takes them.
        input_layers: The input layer of each.
        outputs: Its symbolic outputs, flattened; `output_structure` has them as it returns them.
        output_layers: The operation that makes each.
        calls: Its calls, the input layers left out.
    """

    def __init__(self, model: Any) -> None:
        # A Sequential model keeps its graph in a functional model of its own.
        view = model._functional if isinstance(model, Sequential) else model
        self.model = model
        self.inputs = list(view.inputs)
        self.input_layers = [t._keras_history.operation for t in view.inputs]
        self.outputs = list(view.outputs)
        self.output_layers = [t._keras_history.operation for t in view.outputs]
        self.output_structure = view.output
        self.input_structure = view.input
        # Keras runs its graph depth by depth; there is no public way to see the calls.
        self.calls = [
            Call(node.operation, tuple(node.input_tensors), tuple(node.outputs), node)
            for depth in sorted(view._nodes_by_depth, reverse=True)
            for node in view._nodes_by_depth[depth]
            if not node.is_input
        ]
        self._producers = {id(t): call for call in self.calls for t in call.outputs}
        self._consumers: dict[int, list[Call]] = {}
        for call in self.calls:
            for tensor in call.inputs:
                self._consumers.setdefault(id(tensor), []).append(call)
        self._num_outputs = Counter(id(t) for t in self.outputs)

    def producer(self, tensor: Any) -> Call | None:
        """Returns the call that made `tensor`, or `None` for an input of the model."""
        return self._producers.get(id(tensor))

    def consumers(self, tensor: Any) -> list[Call]:
        """Returns the calls that take `tensor`; one that takes it twice is listed twice."""
        return self._consumers.get(id(tensor), [])

    def is_output(self, tensor: Any) -> bool:
        """Whether the model returns `tensor`."""
        return self._num_outputs[id(tensor)] > 0


def read_graph(model: Any, caller: str) -> Graph:
    """Returns the graph of `model`, or raises with `caller` in the message if it has none."""
    require_graph(model, caller)
    if not has_graph(model):
        raise ValueError(
            f"{caller} needs a functional or Sequential model, because it reads the graph of "
            f'layers. Received model "{model.name}" of the subclass {type(model).__name__}, which '
            "has a graph but computes something else in its own call(). Rebuild it as "
            "keras.Model(model.inputs, outputs), or pass its functional part."
        )
    return Graph(model)


def has_graph(operation: Any) -> bool:
    """Whether `operation` is a built model whose graph of layers is all that it computes."""
    if not isinstance(operation, Functional | Sequential):
        return False
    if type(operation).call not in (Functional.call, Sequential.call):
        return False
    # A Sequential model that was called on a structure of tensors has layers but no graph.
    return not isinstance(operation, Sequential) or operation._functional is not None


def input_layer_of(tensor: Any) -> Any:
    """Returns the input layer that made a symbolic `tensor`, or `None`."""
    history = getattr(tensor, "_keras_history", None)
    made = history.operation if history is not None else None
    return made if isinstance(made, keras.layers.InputLayer) else None


def sublayers(layer: Any) -> list[Any]:
    """Returns `layer` and every layer inside it, each once, parents before children."""
    return layer._flatten_layers()


def copy_operation(operation: Any, caller: str) -> Any:
    """Returns a new operation of the same class and configuration; layers come back unbuilt.

    Raises:
        ValueError: If a layer cannot be made again from its configuration.
    """
    if not isinstance(operation, keras.Layer):
        # A keras.ops function: it has no state but the records of its calls, which are not shared.
        twin = copy.copy(operation)
        twin._inbound_nodes, twin._outbound_nodes = [], []
        return twin
    if type(operation) is keras.layers.Lambda:
        # From its configuration a lambda would lose the names that it refers to.
        return keras.layers.Lambda(
            operation.function,
            output_shape=operation._output_shape,
            mask=operation.mask,
            arguments=operation.arguments,
            name=operation.name,
            dtype=operation.dtype_policy,
        )
    return layer_from_config(operation, {}, caller)


def layer_from_config(layer: Any, changes: dict[str, Any], caller: str) -> Any:
    """Returns a new layer of `layer`'s class and configuration, but for `changes`."""
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except Exception as error:
        raise ValueError(
            f'{caller} could not copy layer "{layer.name}" of type {type(layer).__name__} from its '
            f"get_config(): {error} Give the class a complete get_config, and decorate functions "
            "and classes of your own with keras.saving.register_keras_serializable."
        ) from error


def copy_state(source: Any, target: Any, caller: str) -> None:
    """Copies weights, random state, vocabularies and trainable flags between two equal layers."""
    pairs = list(zip(sublayers(source), sublayers(target), strict=False))
    old, new = source.variables, target.variables
    if [v.shape for v in old] != [v.shape for v in new] or len(sublayers(target)) != len(pairs):
        raise ValueError(
            f'{caller} could not copy layer "{source.name}" of type {type(source).__name__}: made '
            f"again from its get_config() it has {len(new)} variables of shapes "
            f"{[tuple(v.shape) for v in new]}, but the original has {len(old)} of shapes "
            f"{[tuple(v.shape) for v in old]}. Give the class a complete get_config."
        )
    for a, b in pairs:
        b.trainable = a.trainable
        store: dict[str, Any] = {}
        a.save_own_variables(store)
        b.load_own_variables(store)
        # The vocabularies of lookup layers are no variables.
        if hasattr(a, "save_assets"):
            with tempfile.TemporaryDirectory() as directory:
                a.save_assets(directory)
                b.load_assets(directory)
    # After the layers' own loading, which merges LoRA weights and skips random state.
    for v, w in zip(old, new, strict=True):
        w.assign(keras.ops.copy(v))
        w.trainable = v.trainable
