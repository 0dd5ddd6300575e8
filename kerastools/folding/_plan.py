"""Deciding what becomes of each batch normalisation, and of the weights beside it."""

from collections import Counter
from collections.abc import Set
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Call, Graph, has_graph, sublayers
from kerastools._core.graph.kinds import is_kind, kind_of, known_class, parent_kind
from kerastools.folding._algebra.affine import (
    AFFINE_LAYERS,
    RANGE_OF_HALF,
    Affine,
    CannotFold,
    affine_of,
    passage,
    statistics,
)
from kerastools.folding._algebra.linear import LinearWeights
from kerastools.folding._report import FoldOutcome

# Beyond it, adding the shift before the scale would lose the digits of x that matter.
_LARGEST_SHIFT = 1e3


class Plan:
    """Which calls of batch normalisation go, and what that makes of the weights beside them.

    Attributes:
        model: The model to fold; it is not changed.
        in_training: The ids of the layers that run in training mode.
        graph: Its graph, nested models entered.
        times: How often each call is made: several times inside a model that is called again.
        outcomes: A `FoldOutcome` per call, or for what cannot be reached by the id of the layer.
        weights: Those of the layers that take one in, by the id of the layer.
        removed: The calls that go.
        shifts: What the calls of which only the scale goes still add.
        returned: The calls whose output the model around them returns.
    """

    def __init__(self, model: Any, in_training: Set[int]) -> None:
        self.model = model
        self.in_training = in_training
        self.graph = Graph(model).entered()
        self.times = Counter(self.graph.calls)
        self.num_calls = Counter(id(call.operation) for call in self.times)
        graphs = [Graph(part) for part in sublayers(model) if has_graph(part)]
        self.returned = {c for g in graphs for c in g.calls if g.is_output(c.outputs[0])}
        self.outcomes: dict[Any, FoldOutcome] = {}
        self.candidates: list[Call] = []
        self._find()
        self.weights: dict[int, LinearWeights] = {}
        self.removed: set[Call] = set()
        self.shifts: dict[Call, np.ndarray] = {}
        self._fold_all()
        self._fold_scales()

    def stays(self, layer: Any) -> bool:
        """Whether some call of `layer` stays."""
        return not self.removed.issuperset(c for c in self.times if c.operation is layer)

    def _find(self) -> None:
        """Lists what could be folded, and what cannot because its call is unknown."""
        for call in self.times:
            layer, path = call.operation, call.path.removesuffix(call.operation.name)
            if known_class(layer) in AFFINE_LAYERS:
                self.candidates.append(call)
                self._note(call, path, layer, None, None)
            elif isinstance(layer, keras.Layer):
                for part in sublayers(layer):
                    if parent_kind(part).name == "batch_normalization":
                        where = "is a subclass" if part is layer else f"lies inside {layer.name}"
                        reason = f"{where} of type {type(layer).__name__}, whose call is unknown"
                        self._note(id(part), path, part, None, reason)

    def _note(self, key: Any, path: str, layer: Any, into: str | None, reason: str | None) -> None:
        name = f"{path}{layer.name}"
        self.outcomes[key] = FoldOutcome(name, parent_kind(layer).name, into, reason)

    def _fold_all(self) -> None:
        """Folds until nothing more goes: what is gone may open the way for what was before it."""
        progress = True
        while progress:
            progress = False
            for call in list(self.candidates):
                into, reason = self._fold(call)
                self.outcomes[call] = replace(self.outcomes[call], into=into, reason=reason)
                if into:
                    progress = True
                    self.removed.add(call)
                    self.candidates.remove(call)

    def _fold_scales(self) -> None:
        """Folds the scale alone, forward, where zero padding keeps out the shift."""
        for call in self.candidates:
            updates: dict[int, LinearWeights] = {}
            try:
                affine = self._affine(call)
                shift = self._shift_before(call, affine)
                names = self._into_consumers(call, affine.without_shift(), updates)
                _check_rounding(call, updates, shifted=False)
            except CannotFold:
                continue
            self.weights |= updates
            self.shifts[call] = shift
            into = f"{' and '.join(names)}, but for its shift, which a Rescaling adds"
            self.outcomes[call] = replace(self.outcomes[call], into=into, reason=None)

    def _shift_before(self, call: Call, affine: Affine) -> np.ndarray:
        """Returns s in a⊗x + b = a⊗(x + s) as what a `Rescaling` adds along the last axis."""
        layer, rank = call.operation, len(call.outputs[0].shape)
        if self.num_calls[id(layer)] > 1 or layer.compute_dtype not in ("float32", "float64"):
            raise CannotFold("called several times, or in a precision that cannot hold the shift")
        if (affine.scale == 0).any() or (affine.scale == 1).all():
            raise CannotFold("a scale of 0 cannot be taken out, one of 1 need not")
        if keras.config.image_data_format() != "channels_last":
            raise CannotFold("a Rescaling adds along another axis")
        shift = replace(affine, shift=affine.shift / affine.scale).along(rank - 1).shift
        if not np.abs(shift).max() <= _LARGEST_SHIFT:
            raise CannotFold("the shift before the scale is too large")
        return np.array(shift)

    def _fold(self, call: Call) -> tuple[str | None, str | None]:
        """Folds one call if it can; returns the layers' names and nothing, or nothing and why."""
        try:
            affine = self._affine(call)
        except CannotFold as reason:
            return None, str(reason)
        reasons = []
        for forward in (False, True):
            updates: dict[int, LinearWeights] = {}
            try:
                if forward:
                    names = self._into_consumers(call, affine, updates)
                    _check_rounding(call, updates, affine.shifts)
                else:
                    names = self._into_producers(call.inputs[0], call, affine, updates)
            except CannotFold as reason:
                reasons.append(str(reason))
            else:
                self.weights |= updates
                return " and ".join(names), None
        return None, "; ".join(reasons)

    def _affine(self, call: Call) -> Affine:
        """Returns what a call does in inference, or raises if that is not known."""
        if id(call.operation) in self.in_training:
            raise CannotFold(
                "called with training=True, or after a layer that is: uses its batch's statistics"
            )
        if call.has_explicit_mask:
            raise CannotFold("called with an explicit mask")
        source, target = call.inputs[0], call.outputs[0]
        if source.dtype != target.dtype:
            raise CannotFold(f"changes the dtype from {source.dtype} to {target.dtype}")
        return affine_of(call.operation, len(source.shape))

    def _into_producers(
        self, tensor: Any, user: Call, affine: Affine, updates: dict[int, LinearWeights]
    ) -> list[str]:
        """Makes the layers before `tensor`, used once, compute a⊗tensor + b in place."""
        call = self.graph.producer(tensor)
        if call is None:
            raise CannotFold("follows an input of the model")
        layer = call.operation
        self._check_border(call, tensor, user)
        if self.graph.is_output(tensor):
            raise CannotFold(f"the model also returns the output of {layer.name}")
        users = self.graph.consumers(tensor)
        if len(users) > 1:
            names = ", ".join(sorted({user.operation.name for user in users}))
            raise CannotFold(f"the output of {layer.name} is used several times: by {names}")
        if call in self.removed:
            return self._into_producers(call.inputs[0], call, affine, updates)
        passes = self._passage(call)
        if passes is not None:
            (source,) = call.inputs
            _check_dtype(call)
            before = passes(layer, affine, tensor.shape, source.shape)
            return self._into_producers(source, call, before, updates)
        if is_kind(layer, "add", "concatenate"):
            _check_dtype(call)
            parts = _branches(call, affine)
            return [
                name
                for source, part in zip(call.inputs, parts, strict=True)
                for name in self._into_producers(source, call, part, updates)
            ]
        weights = self._weights(layer, updates)
        updates[id(layer)] = weights.followed_by(affine, len(tensor.shape))
        return [layer.name]

    def _into_consumers(
        self, call: Call, affine: Affine, updates: dict[int, LinearWeights]
    ) -> list[str]:
        """Makes all layers after a call, which returned a⊗x + b, compute the same from x."""
        (tensor,) = call.outputs
        if self.graph.is_output(tensor):
            raise CannotFold("its output goes out of the model")
        users = self.graph.consumers(tensor)
        if not users:
            raise CannotFold("nothing takes its output")
        names = []
        for user in users:
            layer = user.operation
            self._check_border(call, tensor, user)
            passes = self._passage(user)
            if user in self.removed:
                names += self._into_consumers(user, affine, updates)
            elif passes is not None:
                (target,) = user.outputs
                _check_dtype(user)
                averages = kind_of(layer).name.endswith("average_pooling")
                if averages and affine.shifts and target.dtype in RANGE_OF_HALF:
                    raise CannotFold(f"{layer.name} averages in {target.dtype}")
                after = passes(layer, affine, tensor.shape, target.shape)
                names += self._into_consumers(user, after, updates)
            else:
                weights = self._weights(layer, updates)
                updates[id(layer)] = weights.preceded_by(affine, len(tensor.shape))
                names.append(layer.name)
        return names

    def _check_border(self, call: Call, tensor: Any, user: Call) -> None:
        """Raises if `tensor` is another value, or may be, in the model that `call` or `user` is in.

        A nested model may be called again, on other values, and convert what goes into it.
        """
        made = call.node.outputs[[*map(id, call.outputs)].index(id(tensor))]
        taken = [b for a, b in zip(user.inputs, user.recorded_inputs, strict=True) if a is tensor]
        crosses = any(t is not made for t in taken)
        for one in (call, user):
            leaves = one is call and call in self.returned
            if self.times[one] > 1 and (crosses or leaves):
                model = one.path.split("/")[-2]
                raise CannotFold(f"the nested model {model} is called {self.times[one]} times")
        if any(t.dtype != made.dtype or len(t.shape) != len(made.shape) for t in taken):
            model = max(call.path, user.path, key=lambda path: path.count("/")).split("/")[-2]
            raise CannotFold(f"{model} changes the dtype or shape of what goes into it")

    def _passage(self, call: Call) -> Any:
        """Returns how an affine map passes a call in inference, or `None` if it cannot."""
        if len(call.inputs) != 1 or id(call.operation) in self.in_training:
            return None
        return passage(call.operation)

    def _weights(self, layer: Any, updates: dict[int, LinearWeights]) -> LinearWeights:
        weights = updates.get(id(layer)) or self.weights.get(id(layer)) or LinearWeights.of(layer)
        if self.num_calls[id(layer)] > 1:
            raise CannotFold(
                f"{layer.name} is called {self.num_calls[id(layer)]} times with one kernel"
            )
        return weights


def _check_dtype(call: Call) -> None:
    dtypes = {t.dtype for t in (*call.inputs, *call.outputs)}
    if len(dtypes) > 1:
        raise CannotFold(f"{call.operation.name} mixes {' and '.join(sorted(dtypes))}")


def _check_rounding(call: Call, updates: dict[int, LinearWeights], shifted: bool) -> None:
    """Raises if a layer that computes in half precision would round x more than a⊗x + b.

    It rounds in proportion to what it is given: to x, which may be far from zero, where the model
    gave it a⊗x + b. Up to |μ| = σ the error less than doubles.
    """
    for layer in (weights.layer for weights in updates.values()):
        largest = RANGE_OF_HALF.get(layer.compute_dtype)
        if largest is not None:
            mean, std = statistics(call.operation)
            far = shifted and (np.abs(mean) > std).any()
            beyond = (np.abs(mean) + 10 * std > largest) | (std > 0) & (std < 1 / largest)
            if far or beyond.any():
                raise CannotFold(
                    f"{layer.name} would round its input to {layer.compute_dtype} before the "
                    "mean is subtracted or the scale applied"
                )


def _branches(call: Call, affine: Affine) -> list[Affine]:
    """Returns what each input of an `Add` or `Concatenate` must become for a⊗output + b."""
    layer, (output,) = call.operation, call.outputs
    if is_kind(layer, "concatenate"):
        axis = layer.axis % len(output.shape)
        if axis == 0:  # of the rows of all branches
            return [affine] * len(call.inputs)
        return affine.split(axis, [t.shape[axis] for t in call.inputs])
    if any(t.shape != output.shape for t in call.inputs):
        raise CannotFold(f"{layer.name} adds tensors of different shapes")
    return [affine] + [affine.without_shift()] * (len(call.inputs) - 1)
