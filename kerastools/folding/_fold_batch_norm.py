"""Removing batch normalisation from a trained model without changing what it computes."""

from collections import Counter
from dataclasses import replace
from typing import Any

import keras

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
from kerastools.folding._algebra import (
    AFFINE_LAYERS,
    Affine,
    CannotFold,
    LinearWeights,
    affine_of,
    passage,
)
from kerastools.folding._report import FoldOutcome, FoldReport

_NAME = "fold_batch_norm"


def fold_batch_norm(
    model: keras.Model, return_report: bool = False
) -> keras.Model | tuple[keras.Model, FoldReport]:
    """Returns a new model that computes the same in inference with fewer batch normalisations.

    In inference a batch normalisation is z = a⊗x + b with a = γ/√(σ²+ε) and b = β − a⊗μ. Linear
    layers beside it can compute the same by other weights. Where x = Wy + c goes nowhere else:

        W ← a ⊗ W (over the outputs),   c ← a ⊗ c + b

    and where z goes only into linear layers Wz + c, which is what `Dense(activation="relu")`
    followed by `BatchNormalization` needs:

        W ← W ⊗ a (over the inputs),   c ← c + Wb

    Use it on a trained model before serving. Keras computes a batch normalisation as some seven
    operations that read and write the whole tensor, and few runtimes remove all of them.

    Linear layers are `Dense` (of any rank), `EinsumDense` (backwards), `Conv`, `DepthwiseConv`,
    `SeparableConv` and `ConvTranspose` of any dimension, with any stride, dilation, groups and data
    format, with or without bias. Between them and the batch normalisation may stand what does
    nothing in inference (dropout, noise, `Identity`, a linear `Activation`, another batch
    normalisation that goes), `Flatten`, `Reshape`, average pooling, nearest or bilinear upsampling,
    cropping, max pooling where every scale is positive, and zero padding where the shift is zero.
    Backwards it goes through `Concatenate` and `Add` into every branch. `Rescaling` and
    `Normalization` at the input go the same way. Nested models are folded inside.

    All others are kept, as exact as they were, and the report says why: a kernel that is called
    twice, an output that is used elsewhere, zero padding that would not see the shift, an
    activation in between. Weights are computed in float64 and rounded once. The argument is left
    alone: the result has layers and weights of its own.

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
    layer   outcome
    ───────────────────────────
    norm    folded into dense

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
        outcomes=tuple(plan.outcomes.values()),
        num_layers=(_num_layers(model), _num_layers(folded)),
        num_parameters=(model.count_params(), folded.count_params()),
    )


class _Plan:
    """Which calls of batch normalisation go, and what that makes of the weights before them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graphs: dict[int, Graph] = {}
        self.in_training_mode: set[int] = set()
        self._read(read_graph(model, _NAME), training=False)
        self.num_calls = Counter(
            id(call.operation) for graph in self.graphs.values() for call in graph.calls
        )
        self.outcomes: dict[int, FoldOutcome] = {}
        self.candidates: dict[int, tuple[Graph, Call]] = {}
        self._find(self.graphs[id(model)], "", set())
        self.weights: dict[int, LinearWeights] = {}
        self.removed: set[int] = set()
        self._fold_all()

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

    def _find(self, graph: Graph, path: str, seen: set[int]) -> None:
        """Lists what could be folded, and what cannot because its call is unknown."""
        seen.add(id(graph.model))
        for call in graph.calls:
            layer = call.operation
            if id(layer) in self.graphs:
                if id(layer) not in seen:
                    self._find(self.graphs[id(layer)], f"{path}{layer.name}/", seen)
            elif type(layer) in AFFINE_LAYERS:
                self.candidates[id(call)] = (graph, call)
                self._note(id(call), path, layer, None, None)
            elif isinstance(layer, keras.Layer):
                for part in sublayers(layer):
                    if isinstance(part, keras.layers.BatchNormalization):
                        where = "is a subclass" if part is layer else f"lies inside {layer.name}"
                        reason = f"{where} of type {type(layer).__name__}, whose call is unknown"
                        self._note(id(part), path, part, None, reason)

    def _note(self, key: int, path: str, layer: Any, into: str | None, reason: str | None) -> None:
        name = f"{path}{layer.name}"
        self.outcomes[key] = FoldOutcome(name, type(layer).__name__, into, reason)

    def _fold_all(self) -> None:
        """Folds until nothing more goes: what is gone may open the way for what was before it."""
        progress = True
        while progress:
            progress = False
            for key, (graph, call) in list(self.candidates.items()):
                into, reason = self._fold(graph, call)
                self.outcomes[key] = replace(self.outcomes[key], into=into, reason=reason)
                if into:
                    progress = True
                    self.removed.add(key)
                    del self.candidates[key]

    def _fold(self, graph: Graph, call: Call) -> tuple[str | None, str | None]:
        """Folds one call if it can; returns the layers' names and nothing, or nothing and why."""
        try:
            if id(graph.model) in self.in_training_mode or call.argument("training"):
                raise CannotFold("called with training=True: uses the statistics of its batch")
            if call.has_explicit_mask():
                raise CannotFold("called with an explicit mask")
            source, target = call.inputs[0], call.outputs[0]
            if source.dtype != target.dtype:
                raise CannotFold(f"changes the dtype from {source.dtype} to {target.dtype}")
            affine = affine_of(call.operation, len(source.shape))
        except CannotFold as reason:
            return None, str(reason)
        reasons = []
        for absorb, tensor in ((self._into_producers, source), (self._into_consumers, target)):
            updates: dict[int, LinearWeights] = {}
            try:
                names = absorb(graph, tensor, affine, updates)
            except CannotFold as reason:
                reasons.append(str(reason))
            else:
                self.weights |= updates
                return " and ".join(names), None
        return None, "; ".join(reasons)

    def _into_producers(
        self, graph: Graph, tensor: Any, affine: Affine, updates: dict[int, LinearWeights]
    ) -> list[str]:
        """Makes the layers before `tensor`, which is used once, compute a⊗tensor + b in place."""
        call = graph.producer(tensor)
        if call is None:
            raise CannotFold("follows an input of the model")
        layer = call.operation
        if graph.is_output(tensor):
            raise CannotFold(f"the model also returns the output of {layer.name}")
        if len(graph.consumers(tensor)) > 1:
            users = ", ".join(sorted({c.operation.name for c in graph.consumers(tensor)}))
            raise CannotFold(f"the output of {layer.name} is used several times: by {users}")
        if id(call) in self.removed:
            return self._into_producers(graph, call.inputs[0], affine, updates)
        passes = _passage(call)
        if passes is not None:
            (source,) = call.inputs
            _check_dtype(call)
            before = passes(layer, affine, tensor.shape, source.shape)
            return self._into_producers(graph, source, before, updates)
        if type(layer) in (keras.layers.Add, keras.layers.Concatenate):
            _check_dtype(call)
            parts = _branches(call, affine)
            return [
                name
                for source, part in zip(call.inputs, parts, strict=True)
                for name in self._into_producers(graph, source, part, updates)
            ]
        weights = self._weights(layer, updates)
        updates[id(layer)] = weights.followed_by(affine, len(tensor.shape))
        return [layer.name]

    def _into_consumers(
        self, graph: Graph, tensor: Any, affine: Affine, updates: dict[int, LinearWeights]
    ) -> list[str]:
        """Makes all layers after `tensor` = a⊗x + b compute the same from x."""
        if graph.is_output(tensor):
            raise CannotFold("its output goes out of the model")
        names = []
        for call in graph.consumers(tensor):
            layer = call.operation
            passes = _passage(call)
            if id(call) in self.removed:
                names += self._into_consumers(graph, call.outputs[0], affine, updates)
            elif passes is not None:
                (target,) = call.outputs
                _check_dtype(call)
                after = passes(layer, affine, tensor.shape, target.shape)
                names += self._into_consumers(graph, target, after, updates)
            else:
                weights = self._weights(layer, updates)
                updates[id(layer)] = weights.preceded_by(affine, len(tensor.shape))
                names.append(layer.name)
        return names

    def _weights(self, layer: Any, updates: dict[int, LinearWeights]) -> LinearWeights:
        weights = updates.get(id(layer)) or self.weights.get(id(layer)) or LinearWeights.of(layer)
        if self.num_calls[id(layer)] > 1:
            raise CannotFold(
                f"{layer.name} is called {self.num_calls[id(layer)]} times with one kernel"
            )
        return weights

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


def _passage(call: Call) -> Any:
    """Returns how an affine map passes a call in inference, or `None` if it cannot."""
    if len(call.inputs) != 1 or call.argument("training"):
        return None
    return passage(call.operation)


def _check_dtype(call: Call) -> None:
    dtypes = {t.dtype for t in (*call.inputs, *call.outputs)}
    if len(dtypes) > 1:
        raise CannotFold(f"{call.operation.name} mixes {' and '.join(sorted(dtypes))}")


def _branches(call: Call, affine: Affine) -> list[Affine]:
    """Returns what each input of an `Add` or `Concatenate` must become for a⊗output + b."""
    layer, (output,) = call.operation, call.outputs
    if type(layer) is keras.layers.Concatenate:
        axis = layer.axis % len(output.shape)
        return affine.split(axis, [t.shape[axis] for t in call.inputs])
    if any(t.shape != output.shape for t in call.inputs):
        raise CannotFold(f"{layer.name} adds tensors of different shapes")
    return [affine] + [affine.without_shift()] * (len(call.inputs) - 1)


def _num_layers(model: Any) -> int:
    leaves = [layer for layer in sublayers(model) if not isinstance(layer, keras.Model)]
    return sum(not isinstance(layer, keras.layers.InputLayer) for layer in leaves)
