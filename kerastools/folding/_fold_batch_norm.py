"""Removing batch normalisation from a trained model without changing what it computes."""

from collections import Counter
from typing import Any

import keras

from kerastools import layers
from kerastools._core._graph import (
    Call,
    Graph,
    copy_operation,
    copy_state,
    has_graph,
    layer_from_config,
    read_graph,
    sublayers,
)
from kerastools.folding._algebra import CannotFold, LinearWeights, inference_affine
from kerastools.folding._report import FoldOutcome, FoldReport

_NAME = "fold_batch_norm"
# Layers that return their input in inference.
_INFERENCE_NO_OPS = (
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    layers.Dropout,
)


def fold_batch_norm(
    model: keras.Model, return_report: bool = False
) -> keras.Model | tuple[keras.Model, FoldReport]:
    """Returns a new model that computes the same in inference with fewer batch normalisations.

    In inference a batch normalisation is z = a⊗x + b with a = γ/√(σ²+ε) and b = β − a⊗μ. Where x is
    the output Wy + c of a linear layer and goes nowhere else, that layer can compute z itself:

        W ← a ⊗ W (over the outputs),   c ← a ⊗ c + b

    Use it on a trained model before serving. Keras computes a batch normalisation as some seven
    operations that read and write the whole tensor, and few runtimes remove all of them.

    Folded are batch normalisations that follow `Dense` (of any rank), `Conv1D`, `Conv2D`, `Conv3D`
    (grouped and dilated too), `DepthwiseConv1D` or `DepthwiseConv2D`, with or without bias, scale
    and centre, channels first or last, directly or after layers that do nothing in inference
    (dropout and noise layers, `Identity`, a linear `Activation`); in nested models likewise. All
    others are kept, as exact as they were, and the report says why. Weights are computed in float64
    and rounded once. The argument is left alone: the result has layers and weights of its own.

    Layers that stay keep their name, dtype, trainable flags and regularizers. The layer that takes
    a batch normalisation in becomes a fresh plain layer of its class: without constraint, which
    bounded the kernel before the scale went into it, and without its initializer. So the saved
    result needs kerastools only if a layer that stays is of kerastools. A batch normalisation whose
    output the model returns leaves an `Identity` of its name, so that `model.output_names` stays.
    Functional subclasses come back as plain functional models. The result is not compiled; do not
    train it further as a replacement of the original, because normalisation by batch is gone.

    Args:
        model: A built functional or Sequential model.
        return_report: Whether to return a `FoldReport` too.

    Returns:
        The new model, or `(model, report)` with `return_report=True`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If `model` is not built or is subclassed, or one of its layers cannot be made
            again from its `get_config()`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(4, use_bias=False, name="dense"),
    ...     keras.layers.BatchNormalization(name="norm"),
    ...     keras.layers.ReLU(),
    ... ], name="net")
    >>> folded, report = fold_batch_norm(model, return_report=True)
    >>> print(report)
    Model "net": 1 of 1 batch norms folded, 3 layers became 2, 48 parameters 36
    <BLANKLINE>
    batch norm   outcome
    ────────────────────────────────
    norm         folded into dense

    Reference: Ioffe and Szegedy, "Batch normalization: accelerating deep network training by
    reducing internal covariate shift", ICML 2015; Jacob et al., "Quantization and training of
    neural networks for efficient integer-arithmetic-only inference", CVPR 2018, section 3.2.
    """
    plan = _Plan(model)
    folded = plan.build()
    if not return_report:
        return folded
    return folded, FoldReport(
        model=model.name,
        outcomes=tuple(plan.outcomes),
        num_layers=(_num_layers(model), _num_layers(folded)),
        num_parameters=(model.count_params(), folded.count_params()),
    )


class _Plan:
    """Which calls of batch normalisation go, and what that makes of the weights before them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.outcomes: list[FoldOutcome] = []
        self.weights: dict[int, LinearWeights] = {}
        self.removed: set[int] = set()
        self.graphs: dict[int, Graph] = {}
        self.in_training_mode: set[int] = set()
        self._read(read_graph(model, _NAME), training=False)
        self.num_calls = Counter(
            id(call.operation) for graph in self.graphs.values() for call in graph.calls
        )
        self._visit(self.graphs[id(model)], "", set())

    def _read(self, graph: Graph, training: bool) -> None:
        self.graphs[id(graph.model)] = graph
        if training:
            self.in_training_mode.add(id(graph.model))
        for call in graph.calls:
            nested = call.operation
            if has_graph(nested):
                in_training = training or bool(call.argument("training"))
                news = in_training and id(nested) not in self.in_training_mode
                if news or id(nested) not in self.graphs:
                    self._read(self.graphs.get(id(nested)) or Graph(nested), in_training)

    def _visit(self, graph: Graph, path: str, seen: set[int]) -> None:
        seen.add(id(graph.model))
        for call in graph.calls:
            layer = call.operation
            if id(layer) in self.graphs:
                if id(layer) not in seen:
                    self._visit(self.graphs[id(layer)], f"{path}{layer.name}/", seen)
            elif type(layer) is keras.layers.BatchNormalization:
                self._outcome(f"{path}{layer.name}", *self._fold(graph, call))
            elif isinstance(layer, keras.Layer):
                for part in sublayers(layer):
                    if isinstance(part, keras.layers.BatchNormalization):
                        where = "is a subclass" if part is layer else f"lies inside {layer.name}"
                        reason = f"{where} of type {type(layer).__name__}, whose call is unknown"
                        self._outcome(f"{path}{part.name}", None, reason)

    def _outcome(self, name: str, into: str | None, reason: str | None) -> None:
        self.outcomes.append(FoldOutcome(name, into, reason))

    def _fold(self, graph: Graph, call: Call) -> tuple[str | None, str | None]:
        """Folds one call if it can; returns the layer's name and nothing, or nothing and why."""
        try:
            if id(graph.model) in self.in_training_mode or call.argument("training"):
                raise CannotFold("called with training=True: uses the statistics of its batch")
            if call.has_explicit_mask():
                raise CannotFold("called with an explicit mask")
            rank = len(call.inputs[0].shape)
            affine = inference_affine(call.operation, rank)
            before = self._linear_layer_before(graph, call)
            weights = self.weights.get(id(before)) or LinearWeights.of(before)
            axis = weights.output_axis(rank)
            self.weights[id(before)] = weights.followed_by(affine.along(axis))
        except CannotFold as reason:
            return None, str(reason)
        self.removed.add(id(call))
        return before.name, None

    def _linear_layer_before(self, graph: Graph, batch_norm: Call) -> Any:
        """Returns the layer whose output reaches `batch_norm`, and nothing else, unchanged."""
        tensor = batch_norm.inputs[0]
        while True:
            if graph.is_output(tensor):
                raise CannotFold("the model also returns its input")
            if len(graph.consumers(tensor)) > 1:
                others = {c.operation.name for c in graph.consumers(tensor)}
                others -= {batch_norm.operation.name}
                raise CannotFold(f"its input is also used by {', '.join(sorted(others))}")
            call = graph.producer(tensor)
            if call is None:
                raise CannotFold("follows an input of the model")
            if tensor.dtype != batch_norm.outputs[0].dtype:
                raise CannotFold(
                    f"changes the dtype from {tensor.dtype} to {batch_norm.outputs[0].dtype}"
                )
            if id(call) not in self.removed and not _is_no_op(call):
                break
            tensor = call.inputs[0]
        if self.num_calls[id(call.operation)] > 1:
            raise CannotFold(
                f"{call.operation.name} is called {self.num_calls[id(call.operation)]} times "
                "with one kernel"
            )
        return call.operation

    def build(self) -> Any:
        """Returns the new model; nothing of the old one is changed."""
        copies: dict[int, Any] = {}
        originals: list[Any] = []
        folded = self._build(self.graphs[id(self.model)], copies, originals)
        # Setting the flag of a model sets those of its layers: parents first.
        for model in reversed([o for o in originals if id(o) in self.graphs]):
            copies[id(model)].trainable = model.trainable
        for original in originals:
            if id(original) in self.weights:
                self.weights[id(original)].assign_to(copies[id(original)])
            elif isinstance(original, keras.Layer) and id(original) not in self.graphs:
                copy_state(original, copies[id(original)], _NAME)
        return folded

    def _build(self, graph: Graph, copies: dict[int, Any], originals: list[Any]) -> Any:
        """Returns the copy of a model, which appends itself to `originals` after its parts."""

        def copy(operation: Any) -> Any:
            if id(operation) not in copies:
                if id(operation) in self.graphs:
                    return self._build(self.graphs[id(operation)], copies, originals)
                if id(operation) in self.weights:
                    changes = self.weights[id(operation)].config_changes()
                    copies[id(operation)] = layer_from_config(operation, changes, _NAME)
                else:
                    copies[id(operation)] = copy_operation(operation, _NAME)
                originals.append(operation)
            return copies[id(operation)]

        def stand_in(call: Call) -> Any:
            """Returns what a removed call leaves: nothing, or the name of a model's output."""
            if not graph.is_output(call.outputs[0]):
                return None
            policy = call.operation.dtype_policy.name
            return keras.layers.Identity(name=call.operation.name, dtype=policy)

        model = graph.model
        inputs = [copy(layer) for layer in graph.input_layers]
        if isinstance(model, keras.Sequential):
            parts = [
                stand_in(call) if id(call) in self.removed else copy(call.operation)
                for call in graph.calls
            ]
            new = keras.Sequential([*inputs, *(p for p in parts if p is not None)], name=model.name)
        else:
            tensors = {id(t): layer.output for t, layer in zip(graph.inputs, inputs, strict=True)}
            for call in graph.calls:
                if id(call) in self.removed:
                    layer = stand_in(call)
                    passed = tensors[id(call.inputs[0])]
                    outputs = passed if layer is None else layer(passed)
                else:
                    args, kwargs = call.filled_in(tensors)
                    outputs = copy(call.operation)(*args, **kwargs)
                for old, tensor in zip(call.outputs, keras.tree.flatten(outputs), strict=True):
                    tensors[id(old)] = tensor
            new = keras.Model(
                keras.tree.map_structure(lambda t: tensors[id(t)], graph.input_structure),
                keras.tree.map_structure(lambda t: tensors[id(t)], graph.output_structure),
                name=model.name,
            )
        copies[id(model)] = new
        originals.append(model)
        return new


def _is_no_op(call: Call) -> bool:
    """Whether a call returns its only input in inference, which this is."""
    layer = call.operation
    if len(call.inputs) != 1 or call.argument("training"):
        return False
    if type(layer) is keras.layers.Activation:
        return layer.activation is keras.activations.linear
    return type(layer) in _INFERENCE_NO_OPS


def _num_layers(model: Any) -> int:
    leaves = [layer for layer in sublayers(model) if not isinstance(layer, keras.Model)]
    return sum(not isinstance(layer, keras.layers.InputLayer) for layer in leaves)
