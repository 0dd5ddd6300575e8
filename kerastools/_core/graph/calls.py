"""Reading the graph of a functional or Sequential model, and running it with other calls."""

import contextlib
import copy
import functools
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
from keras import KerasTensor, tree

from kerastools._core.checks import require_graph
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.graph_nodes import (
    RECORDED_TRAINING_HOLDS,
    as_inputs,
    computes_its_graph,
    functional_part,
    layers_inside,
    maker_of,
    mask_of,
    recorded_nodes,
    set_mask,
)
from kerastools._core.keras_private.patched import patched


@dataclass(frozen=True)
class Call:
    """One call of an operation (a layer, a nested model or a `keras.ops` function) in a graph.

    Two are equal if they are the same call, also where the graph was read twice.

    Attributes:
        node: Keras's record of the call.
        path: The name of the operation, after the names of the models that it is inside of.
        operation: What is called.
        args: The positional arguments, symbolic tensors among them.
        kwargs: The keyword arguments. Masks are among them as far as Keras records them; those that
            only travel with a tensor are not.
        inputs: The symbolic tensors among the arguments, in order, repeated if passed twice.
        outputs: The symbolic tensors it returned, flattened.
        has_explicit_mask: Whether another mask was passed than the one that travels with the input.
    """

    node: Any
    path: str = field(compare=False)
    operation: Any = field(compare=False)
    args: tuple[Any, ...] = field(compare=False)
    kwargs: dict[str, Any] = field(compare=False)
    inputs: tuple[Any, ...] = field(compare=False)
    outputs: tuple[Any, ...] = field(compare=False)
    has_explicit_mask: bool = field(compare=False)

    @classmethod
    def of(cls, node: Any, prefix: str) -> "Call":
        """Returns the call that Keras recorded as `node`."""
        args, kwargs = node.arguments.args, node.arguments.kwargs
        masks = tree.flatten(kwargs.get("mask"))
        travelling = [mask_of(t) for t in tree.flatten(args[:1])]
        return cls(
            node,
            prefix + node.operation.name,
            node.operation,
            args,
            kwargs,
            _symbolic(args, kwargs),
            tuple(node.outputs),
            any(m is not None for m in masks) and [*map(id, masks)] != [*map(id, travelling)],
        )

    @property
    def data(self) -> tuple[Any, ...]:
        """`inputs` without masks."""
        return _symbolic(
            self.args, {k: v for k, v in self.kwargs.items() if not k.endswith("mask")}
        )

    @property
    def recorded_inputs(self) -> tuple[Any, ...]:
        """`inputs` as they stand in the model that the call is in, also where that is entered."""
        return _symbolic(self.node.arguments.args, self.node.arguments.kwargs)

    def argument(self, name: str) -> Any:
        """Returns the argument that was passed by keyword as `name`, or `None`."""
        return self.kwargs.get(name)

    def first_argument(self) -> Any:
        """Returns the first argument, for a model the structure of its inputs."""
        return self.args[0] if self.args else self.kwargs.get("inputs")

    def filled_in(self, tensors: dict[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the positional and keyword arguments, with `tensors` by id for the symbolic."""

        def value(x: Any) -> Any:
            return tensors[id(x)] if isinstance(x, KerasTensor) else x

        return tree.map_structure(value, self.args), tree.map_structure(value, self.kwargs)


class Graph:
    """The calls of a functional or Sequential model in the order in which they can be computed.

    Attributes:
        model: The model that was read; it is never changed.
        inputs: Its symbolic inputs, flattened; `input_structure` has them as the model takes them.
        input_layers: The input layer of each.
        outputs: Its symbolic outputs, flattened; `output_structure` has them as it returns them.
        output_layers: The operation that makes each.
        calls: Its calls, the input layers left out; a call of a nested model is one of them.
    """

    def __init__(self, model: Any, prefix: str = "") -> None:
        view = functional_part(model)
        self.model = model
        self.inputs = list(view.inputs)
        self.input_layers = [maker_of(t) for t in view.inputs]
        self.input_structure = view.input
        self.outputs = list(view.outputs)
        self.output_layers = [maker_of(t) for t in view.outputs]
        self.output_structure = view.output
        self.calls = [Call.of(node, prefix) for node in recorded_nodes(view)]
        self._index()

    def _index(self) -> None:
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

    def by_input(self, x: Any) -> list[Any]:
        """Returns `x`, an array or a structure of arrays, in the order of `inputs`.

        Raises:
            KeyError: If `x` is a dictionary that lacks one.
        """
        if isinstance(x, dict):
            structure = self.input_structure
            if isinstance(structure, dict):
                return list(tree.flatten({key: x[key] for key in structure}))
            return [x[t.name] for t in self.inputs]
        return list(tree.flatten(x))

    def entered(self) -> "Graph":
        """Returns the same graph with the calls of nested models replaced by those inside them.

        A model that is called twice stands in it twice, with tensors of its own for each.
        """
        calls: list[Call] = []

        def record(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
            inputs = _symbolic(args, kwargs)
            outputs = tuple(KerasTensor(t.shape, t.dtype) for t in call.outputs)
            calls.append(replace(call, args=args, kwargs=kwargs, inputs=inputs, outputs=outputs))
            return list(outputs)

        graph = copy.copy(self)
        graph.outputs = tree.flatten(replay(self, self.input_structure, record))
        graph.calls = calls
        graph._index()
        return graph


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


def calls(model: Any, prefix: str = "") -> list[Call]:
    """Returns the calls of a functional or Sequential model, nested models before what is in them.

    A model that is called twice is entered twice, to the same calls.
    """
    found = []
    for call in Graph(model, prefix).calls:
        found.append(call)
        if has_graph(call.operation):
            found += calls(call.operation, f"{call.path}/")
    return found


def has_graph(operation: Any) -> bool:
    """Whether `operation` is a built model whose graph of layers is all that it computes."""
    return computes_its_graph(operation)


# Takes a call of the graph and the arguments that it gets now; returns what comes out.
Replacement = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]


def as_recorded(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Makes a call of a graph as it stands there."""
    return call.operation(*args, **kwargs)


def replay(
    graph: Graph,
    x: Any,
    call: Replacement = as_recorded,
    training: bool | None = None,
    enter: bool = True,
    mask: Any = None,
) -> Any:
    """Returns what a model makes of `x`, each of its calls made by `call`.

    With `as_recorded` it is what the model itself returns. Masks travel as they do in Keras.

    Args:
        graph: That of the model.
        x: Inputs as the model takes them: arrays, tensors, symbolic tensors, which build a graph
            again, or values of another type that `call` understands.
        call: Takes a call of the graph, with its path, and the arguments that it gets now.
        training: Passed to every layer that takes it, as Keras does: up to 3.15 in place of what
            the graph was made with, from 3.16 on where it was made without.
        enter: Whether the calls in nested models are made by `call`, one by one, or those of the
            nested models themselves.
        mask: Masks of `x`, in place of those that travel with it.
    """
    values = _with_masks(graph, x, mask)
    tensors = {id(t): v for t, v in zip(graph.inputs, values, strict=True)}
    for one in graph.calls:
        args, kwargs = one.filled_in(tensors)
        holds = RECORDED_TRAINING_HOLDS and kwargs.get("training") is not None
        if training is not None and not holds and takes_training(one.operation):
            kwargs["training"] = training
        if enter and has_graph(one.operation):
            inner = Graph(one.operation, f"{one.path}/")
            inputs = args[0] if args else kwargs["inputs"]
            outputs = replay(inner, inputs, call, kwargs.get("training"), mask=kwargs.get("mask"))
        else:
            outputs = call(one, args, kwargs)
        tensors.update(zip(map(id, one.outputs), tree.flatten(outputs), strict=True))
    outputs = [tensors[id(t)] for t in graph.outputs]
    # A model returns the only output of a list by itself.
    return (
        outputs[0]
        if len(outputs) == 1 and not isinstance(graph.output_structure, dict)
        else (tree.pack_sequence_as(graph.output_structure, outputs))
    )


def _with_masks(graph: Graph, x: Any, mask: Any) -> list[Any]:
    """Returns the flat inputs of a graph with their masks; symbolic tensors as they are."""
    flat = graph.by_input(x)
    masks = [mask_of(v) for v in flat] if mask is None else graph.by_input(mask)
    if all(map(is_array, flat)):
        packed = tree.pack_sequence_as(graph.input_structure, flat)
        flat = as_inputs(functional_part(graph.model), packed)
    for value, its_mask in zip(flat, masks, strict=True):
        if its_mask is not None:
            set_mask(value, its_mask)
    return flat


def layers_in_training(graph: Graph) -> set[int]:
    """Returns the ids of the layers that run in training mode where the model is in inference.

    Those are called with `training=True`, and from Keras 3.16 on what it calls after them, too. No
    values are computed: the model is traced. If it cannot be, all layers are returned.
    """
    entered = graph.entered().calls
    found = {id(call.operation) for call in entered if call.argument("training")}

    def watched(layer: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("training"):
            found.add(id(layer))
        return call(*args, **kwargs)

    probe = keras.Operation("probe")
    probe.call = functools.partial(graph.model, training=False)
    layers = [layer for layer in sublayers(graph.model) if takes_training(layer)]
    with contextlib.ExitStack() as patches:
        for layer in layers:
            patches.enter_context(patched(layer, call=functools.partial(watched, layer)))
        try:
            probe.compute_output_spec(graph.input_structure)
        except Exception:  # The model works on values only.
            return {id(layer) for layer in layers}
    return found


def takes_training(operation: Any) -> bool:
    """Whether `operation` is a layer that takes the argument `training`."""
    return isinstance(operation, keras.Layer) and (
        "training" in inspect.signature(operation.call).parameters
    )


def input_layer_of(tensor: Any) -> Any:
    """Returns the input layer that made a symbolic `tensor`, or `None`."""
    made = maker_of(tensor)
    return made if is_kind(made, "input") else None


def sublayers(layer: Any) -> list[Any]:
    """Returns `layer` and every layer inside it, each once, parents before children."""
    return [layer, *layers_inside(layer)]


def is_array(value: Any) -> bool:
    """Whether `value` can be an input of a model: an array, a tensor, or `None` if optional."""
    arrays = value is None or keras.ops.is_tensor(value) or hasattr(value, "__array__")
    return arrays and not isinstance(value, KerasTensor)


def _symbolic(args: Any, kwargs: Any) -> tuple[Any, ...]:
    return tuple(t for t in tree.flatten((args, kwargs)) if isinstance(t, KerasTensor))
