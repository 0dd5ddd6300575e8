"""A model's layers again under a new head, for every way to reuse them."""

from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Call, Graph, has_graph
from kerastools._core.graph.rebuild import copy_operation, copy_state, rebuild
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
        self._pairs: dict[int, tuple[Any, Any]] = {}
        self._twins: dict[int, Any] = {}  # Of the outermost operations.
        self._tensors: dict[Call, Any] = {}
        self._whole = self._copy(graph, top, num_classes)
        self._blank = values(self._whole.variables)
        self._sources = self._copy_states()
        self._drawn: dict[int, list[np.ndarray]] = {}
        self._models: dict[Call | None, keras.Model] = {}
        self._unused: dict[int, list[np.ndarray]] = {}  # Of each model, its optimizer's variables.
        self._inside: Any = None

    def model(self, cut: Call | None) -> keras.Model:
        """Returns the compiled model that trains where all up to `cut` is frozen, None for none."""
        if cut not in self._models:
            model = self._whole
            if cut is not None:
                model = keras.Model(self._tensors[cut], self._whole.outputs[0])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(Adam(self._learning_rate), loss)
            model.optimizer.build(model.trainable_variables)
            self._models[cut] = model
            self._unused[id(model)] = values(model.optimizer.variables)
        return self._models[cut]

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
        for original, twin in self._pairs.values():
            if isinstance(original, keras.Layer):
                copy_state(original, twin, _NAME)
        _train_all(self._whole)
        whole = self._whole.variables
        return dict(zip(map(id, whole), values(whole), strict=True))

    def _below(self, cut: Call | None) -> dict[int, np.ndarray]:
        """Returns the source's values of the variables of all layers up to `cut`."""
        found: dict[int, np.ndarray] = {}
        for call in self._calls if cut is not None else ():
            twin = self._twins.get(id(call.operation))
            if isinstance(twin, keras.Layer):
                found.update({id(v): self._sources[id(v)] for v in twin.variables})
            if call == cut:
                break
        return found

    def _copy(self, graph: Graph, top: Call, num_classes: int) -> keras.Model:
        """Returns the layers up to `top` again under a new head."""

        def connect(call: Call, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            outputs = layer(*args, **kwargs)
            if not has_graph(call.operation):
                self._pairs[id(call.operation)] = call.operation, layer
            if "/" not in call.path:
                self._twins[id(call.operation)] = layer
                self._tensors[call] = keras.tree.flatten(outputs)[0]
            return outputs

        below = keras.Model(graph.input_structure, top.outputs[0])
        trunk = rebuild(
            below, _NAME, lambda path, layer: (copy_operation(layer, _NAME), False), connect
        )
        features = trunk.outputs[0]
        rank = len(features.shape)
        if rank > 2:
            pooling = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")(name="new_pooling")
            features = pooling(features)
        head = keras.layers.Dense(num_classes, dtype="float32", name="new_head")
        whole = keras.Model(trunk.input, head(features))
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
