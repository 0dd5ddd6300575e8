"""Candidates of `search_reuse_depth`: copies of the source's layers under a new head."""

from collections.abc import Collection
from typing import Any, NamedTuple

import keras
import numpy as np

from kerastools._core.batches import Batches
from kerastools._core.graph.calls import Call, Graph, has_graph
from kerastools._core.graph.rebuild import copy_operation, copy_state, rebuild
from kerastools.calibration import initialize
from kerastools.optimizers import Adam

_NAME = "search_reuse_depth"

# Rows per call of prediction.
_BATCH = 256


class EvalResult(NamedTuple):
    """Accuracy and loss of a model on some rows."""

    accuracy: float
    loss: float  # Cross-entropy in nats.


class Candidate:
    """A way to reuse the source: its layers up to a cut, frozen or fine-tuned, under new layers.

    The layers above the cut are those of the source with new weights, and a new head. Each repeat
    has its own state, so that training can be continued later.

    Args:
        layers: The layers and compiled models, shared by all candidates.
        cut: The last reused call, or `None` for training from scratch.
        frozen: Whether the layers up to the cut are frozen.
        x: Inputs of the source or, if frozen, its features at the cut.
    """

    def __init__(self, layers: "SharedLayers", cut: Call | None, frozen: bool, x: Any) -> None:
        self.upto = None if cut is None else cut.operation.name
        self.frozen = frozen
        self.epochs: dict[int, int] = {}  # Epochs trained, by repeat.
        self.results: dict[int, dict[int, EvalResult]] = {}  # By epoch and repeat.
        self._layers, self._cut, self._x = layers, cut, x
        self._model = layers.model(cut if frozen else None)
        self._states: dict[int, list[np.ndarray]] = {}

    def train(
        self,
        repeat: int,
        epochs: int,
        y: np.ndarray,
        train: np.ndarray,
        batch_size: int,
        seed: int,
        held_out: np.ndarray | None = None,
        at: Collection[int] = (),
    ) -> None:
        """Trains one repeat up to `epochs` on the rows `train`.

        After the epochs `at`, its result on the rows `held_out` is added to `results`.
        """
        if repeat not in self._states:
            self._states[repeat] = self._layers.initial_state(self._model, self._cut, seed)
        self._load(repeat)
        rows = _take(self._x, train)

        def batch(parts: tuple[np.ndarray, ...], rng: Any) -> tuple[Any, Any]:
            return keras.tree.pack_sequence_as(rows, list(parts[:-1])), parts[-1]

        arrays = [*keras.tree.flatten(rows), y[train]]
        batches = Batches(arrays, min(batch_size, len(train)), seed, batch)
        for epoch in range(self.epochs.get(repeat, 0), epochs):
            batches.epoch = epoch
            for i in range(len(batches)):
                # The overhead of `fit` takes longer than these few steps.
                self._model.train_on_batch(*batches[i])
            if held_out is not None and epoch + 1 in at:
                self.results.setdefault(epoch + 1, {})[repeat] = self._evaluate(
                    self._x, y, held_out
                )
        self._states[repeat] = values(variables(self._model))
        self.epochs[repeat] = epochs

    def evaluate(self, repeat: int, y: np.ndarray, rows: np.ndarray, x: Any = None) -> EvalResult:
        """Evaluates one repeat on `rows`, of its own inputs or of `x`."""
        self._load(repeat)
        return self._evaluate(self._x if x is None else x, y, rows)

    def _evaluate(self, x: Any, y: np.ndarray, rows: np.ndarray) -> EvalResult:
        right, loss = 0, 0.0
        for i in range(0, len(rows), _BATCH):
            some = rows[i : i + _BATCH]
            logits = self._model.predict_on_batch(_take(x, some)).astype("float64")
            right += (logits.argmax(-1) == y[some]).sum()
            logits -= logits.max(-1, keepdims=True)
            own = logits[np.arange(len(some)), y[some]]
            loss += (np.log(np.exp(logits).sum(-1)) - own).sum()
        return EvalResult(float(right / len(rows)), float(loss / len(rows)))

    def _load(self, repeat: int) -> None:
        self._layers.load(self._model, self._states[repeat], (id(self), repeat))


def _take(x: Any, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda a: a[rows], x)


class SharedLayers:
    """Copies of the source's layers under a new head, shared by all candidates.

    On little data, compiling takes longer than training. Candidates in which all layers train
    differ only in their initial weights, and share one compiled model; candidates frozen at the
    same cut share the model of the layers above it. `load` switches between their weights.

    Args:
        graph: Graph of the trained model.
        top: The call whose output is the input of the new head.
        num_classes: Units of the new head.
        learning_rate: Learning rate of Adam.
    """

    def __init__(self, graph: Graph, top: Call, num_classes: int, learning_rate: float) -> None:
        self._calls = graph.calls
        self._learning_rate = learning_rate
        self._pairs: dict[int, tuple[Any, Any]] = {}
        self._twins: dict[int, Any] = {}  # Copies of the outermost operations.
        self._tensors: dict[Call, Any] = {}
        self._whole = self._copy(graph, top, num_classes)
        self._zero_state = values(self._whole.variables)
        self._source_values = self._copy_states()
        self._initialized: dict[int, list[np.ndarray]] = {}
        self._models: dict[Call | None, keras.Model] = {}
        self._optimizer_states: dict[int, list[np.ndarray]] = {}  # By model, before any step.
        self._owner: Any = None

    def model(self, cut: Call | None) -> keras.Model:
        """Returns the compiled model with layers frozen up to `cut`, or none with `None`."""
        if cut not in self._models:
            model = self._whole
            if cut is not None:
                model = keras.Model(self._tensors[cut], self._whole.outputs[0])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(Adam(self._learning_rate), loss)
            model.optimizer.build(model.trainable_variables)
            self._models[cut] = model
            self._optimizer_states[id(model)] = values(model.optimizer.variables)
        return self._models[cut]

    def initial_state(self, model: keras.Model, cut: Call | None, seed: int) -> list[np.ndarray]:
        """Returns initial values of `variables(model)`: the source's up to `cut`, then new."""
        if seed not in self._initialized:
            self._owner = None
            _assign(self._whole.variables, self._zero_state)
            initialize(self._whole, seed=seed)
            self._initialized[seed] = values(self._whole.variables)
        whole = [id(v) for v in self._whole.variables]
        state = dict(zip(whole, self._initialized[seed], strict=True))
        state.update(self._below(cut))
        return [*(state[id(v)] for v in model.variables), *self._optimizer_states[id(model)]]

    def load(self, model: keras.Model, state: list[np.ndarray], owner: Any) -> None:
        """Assigns `state` to `variables(model)`, unless they hold that of `owner` already."""
        if self._owner != owner:
            _assign(variables(model), state)
            self._owner = owner

    def _copy_states(self) -> dict[int, np.ndarray]:
        """Copies the source's state to the layers; returns the values of their variables."""
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
                found.update({id(v): self._source_values[id(v)] for v in twin.variables})
            if call == cut:
                break
        return found

    def _copy(self, graph: Graph, top: Call, num_classes: int) -> keras.Model:
        """Returns a copy of the layers up to `top` under a new head."""

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
    """Returns the variables of `model` and its optimizer."""
    return [*model.variables, *model.optimizer.variables]


def values(of: list[Any]) -> list[np.ndarray]:
    """Returns copies of the values of variables."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in of]


def _assign(to: list[Any], state: list[np.ndarray]) -> None:
    for variable, value in zip(to, state, strict=True):
        variable.assign(value)


def _train_all(model: keras.Model) -> None:
    for layer in model.layers:
        layer.trainable = True
