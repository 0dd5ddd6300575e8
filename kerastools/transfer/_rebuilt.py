"""A model's layers again under a new head, for every way to reuse them."""

from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Call, Graph
from kerastools._core.graph.rebuild import copy_operation, copy_state
from kerastools.calibration import initialize
from kerastools.optimizers import Adam

_NAME = "search_reuse_depth"


class Rebuilt:
    """The source's layers under a new head: one set of weights that the ways to reuse it share.

    In a small contest compiling costs more than training. Ways in which all layers train differ in
    their first weights only, so that one compiled model serves them all; ways that are frozen up to
    a cut share the model of what is above it. Whose weights are in it changes with `put`.

    Args:
        graph: That of the trained model.
        top: The call on whose output the new head stands.
        num_classes: Units of the new head.
        learning_rate: Adam's.
    """

    def __init__(self, graph: Graph, top: Call, num_classes: int, learning_rate: float) -> None:
        self._calls = graph.calls
        self._learning_rate = learning_rate
        self._twins: dict[int, Any] = {}
        self._tensors: dict[int, Any] = {}
        self._whole = self._copy(graph, top, num_classes)
        self._blank = values(self._whole.variables)
        self._sources = self._copy_states()
        self._drawn: dict[int, list[np.ndarray]] = {}
        self._models: dict[int | None, keras.Model] = {}
        self._unused: dict[int, list[np.ndarray]] = {}  # Of each model, its optimizer's variables.
        self._inside: Any = None

    def model(self, cut: Call | None) -> keras.Model:
        """Returns the compiled model that trains where all up to `cut` is frozen, None for none."""
        key = None if cut is None else id(cut.node)
        if key not in self._models:
            model = self._whole
            if cut is not None:
                model = keras.Model(self._tensors[id(cut.outputs[0])], self._whole.outputs[0])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(Adam(self._learning_rate), loss)
            model.optimizer.build(model.trainable_variables)
            self._models[key] = model
            self._unused[id(model)] = values(model.optimizer.variables)
        return self._models[key]

    def first(self, model: keras.Model, cut: Call | None, seed: int) -> list[np.ndarray]:
        """Returns what `variables(model)` begin with: up to `cut` the source's, drawn above it."""
        if seed not in self._drawn:
            self._inside = None
            _assign(self._whole.variables, self._blank)
            initialize(self._whole, seed=seed)
            self._drawn[seed] = values(self._whole.variables)
        whole = [id(v) for v in self._whole.variables]
        state = dict(zip(whole, self._drawn[seed], strict=True))
        state.update(self._below(cut))
        return [*(state[id(v)] for v in model.variables), *self._unused[id(model)]]

    def put(self, model: keras.Model, state: list[np.ndarray], owner: Any) -> None:
        """Sets `variables(model)` to `state`, unless they are `owner`'s already."""
        if self._inside != owner:
            _assign(variables(model), state)
            self._inside = owner

    def _copy_states(self) -> dict[int, np.ndarray]:
        """Sets the layers to the source's; returns the values of their variables."""
        done = set()
        for call in self._calls:
            twin = self._twins.get(id(call.operation))
            if isinstance(twin, keras.Layer) and id(twin) not in done:
                copy_state(call.operation, twin, _NAME)
                done.add(id(twin))
        _train_all(self._whole)
        whole = self._whole.variables
        return dict(zip(map(id, whole), values(whole), strict=True))

    def _below(self, cut: Call | None) -> dict[int, np.ndarray]:
        """Returns the source's values of the variables of all layers up to `cut`."""
        found: dict[int, np.ndarray] = {}
        for call in self._calls if cut is not None else ():
            twin = self._twins[id(call.operation)]
            if isinstance(twin, keras.Layer):
                found.update({id(v): self._sources[id(v)] for v in twin.variables})
            if cut is not None and call.node is cut.node:
                break
        return found

    def _copy(self, graph: Graph, top: Call, num_classes: int) -> keras.Model:
        """Returns the layers up to `top` again under a new head."""
        tensors = {
            id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name)
            for t in graph.inputs
        }
        inputs = keras.tree.map_structure(lambda t: tensors[id(t)], graph.input_structure)
        for call in graph.calls:
            original = call.operation
            if id(original) not in self._twins:
                self._twins[id(original)] = copy_operation(original, _NAME)
            arguments, keywords = call.filled_in(tensors)
            outputs = keras.tree.flatten(self._twins[id(original)](*arguments, **keywords))
            tensors.update({id(t): u for t, u in zip(call.outputs, outputs, strict=True)})
            if call.node is top.node:
                break
        self._tensors = tensors
        features = tensors[id(top.outputs[0])]
        rank = len(features.shape)
        if rank > 2:
            pooling = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")
            features = pooling(name="new_pooling")(features)
        head = keras.layers.Dense(num_classes, dtype="float32", name="new_head")
        whole = keras.Model(inputs, head(features))
        _train_all(whole)
        return whole


def variables(model: keras.Model) -> list[Any]:
    """Returns all that changes while `model` trains."""
    return [*model.variables, *model.optimizer.variables]


def values(of: list[Any]) -> list[np.ndarray]:
    """Returns copies of variables."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in of]


def _assign(to: list[Any], state: list[np.ndarray]) -> None:
    for variable, value in zip(to, state, strict=True):
        variable.assign(value)


def _train_all(model: keras.Model) -> None:
    for layer in model.layers:
        layer.trainable = True
