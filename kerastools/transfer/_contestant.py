"""One way to reuse a model, trained a while, set aside and trained on."""

from typing import Any

import keras
import numpy as np

from kerastools._core._batches import Batches
from kerastools._core._graph import Call, Graph, copy_operation, copy_state
from kerastools.calibration import initialize
from kerastools.transfer._cut import split

_NAME = "search_reuse_depth"


class Contestant:
    """The source's layers up to a cut, frozen or tuned, under new ones; one model, many states.

    The layers above the cut are those of the source with weights drawn anew, and a new head in
    place of its own. One compiled model serves all repeats: their weights and optimizer states are
    swapped in and out. Where the lower layers are frozen, they are run once over all rows.

    Args:
        source: The trained model.
        top: The call of its graph on whose output the new head stands.
        cut: The last call that is reused, None for none.
        frozen: Whether the layers up to the cut stay as they are.
        num_classes: Units of the new head.
        learning_rate: Adam's.
    """

    def __init__(
        self,
        source: keras.Model,
        top: Call,
        cut: Call | None,
        frozen: bool,
        num_classes: int,
        learning_rate: float,
    ) -> None:
        self.upto = None if cut is None else cut.operation.name
        self.frozen = frozen
        self.accuracies: dict[int, list[float]] = {}  # By the epochs trained; one per repeat.
        self._whole, self._pairs = _copy(Graph(source), top, cut, num_classes)
        self._prefix: Any = None
        self._model = self._whole
        if cut is not None and frozen:
            graph = Graph(self._whole)
            call = next(c for c in graph.calls if c.operation is self._pairs[-1][1])
            self._prefix, self._model = split(graph, call)
            self._restore_lower()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._model.compile(keras.optimizers.Adam(learning_rate), loss)
        self._model.optimizer.build(self._model.trainable_variables)
        self._fresh = _values(self._model.optimizer.variables)
        self._states: dict[int, list[np.ndarray]] = {}
        self._epochs: dict[int, int] = {}
        self._features: Any = None

    @property
    def name(self) -> str:
        """The cut and what becomes of the layers below it, in words."""
        if self.upto is None:
            return "from scratch"
        return f"{self.upto}, {'frozen' if self.frozen else 'tuned'}"

    def train(
        self,
        repeat: int,
        epochs: int,
        x: Any,
        y: np.ndarray,
        train: np.ndarray,
        batch_size: int,
        seed: int,
    ) -> int:
        """Trains one repeat up to `epochs` on the rows `train`; returns how many were made."""
        done = self._epochs.get(repeat, 0)
        self._swap_in(repeat, seed)
        rows = keras.tree.map_structure(lambda a: a[train], self._inputs(x))
        flat = keras.tree.flatten(rows)

        def batch(parts: tuple[np.ndarray, ...], rng: Any) -> tuple[Any, Any]:
            return keras.tree.pack_sequence_as(rows, list(parts[:-1])), parts[-1]

        size = min(batch_size, len(train))
        batches = _Epochs([*flat, y[train]], size, seed, batch)
        batches.span = range(done, epochs)
        self._model.fit(batches, shuffle=False, verbose=0)
        self._states[repeat] = _values(self._variables())
        self._epochs[repeat] = epochs
        return epochs - done

    def accuracy(self, repeat: int, x: Any, y: np.ndarray, rows: Any = slice(None)) -> float:
        """Returns the share of `rows` that the model of one repeat gets right."""
        self._swap_in(repeat, 0)
        inputs = keras.tree.map_structure(lambda a: a[rows], self._inputs(x))
        guess = self._model.predict(inputs, batch_size=512, verbose=0).argmax(-1)
        return float((guess == y[rows]).mean())

    def _inputs(self, x: Any) -> Any:
        """Returns what the trained part takes: `x`, or the features of the frozen part."""
        if self._prefix is None:
            return x
        if self._features is None or self._features[0] is not x:
            self._features = (x, self._prefix.predict(x, batch_size=512, verbose=0))
        return self._features[1]

    def _swap_in(self, repeat: int, seed: int) -> None:
        if repeat in self._states:
            for variable, value in zip(self._variables(), self._states[repeat], strict=True):
                variable.assign(value)
            return
        initialize(self._whole, seed=seed)
        self._restore_lower()
        for variable, value in zip(self._model.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)

    def _restore_lower(self) -> None:
        for original, twin in self._pairs:
            copy_state(original, twin, _NAME)

    def _variables(self) -> list[Any]:
        return [*self._model.variables, *self._model.optimizer.variables]


class _Epochs(Batches):
    """The batches of several epochs, for one of Keras's: beginning one takes it longer than a step.

    Attributes:
        span: The numbers of the epochs.
    """

    span = range(1)

    def __len__(self) -> int:
        return len(self.span) * super().__len__()

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        epoch, place = divmod(index, super().__len__())
        self.epoch = self.span[epoch]
        return super().__getitem__(place)


def _copy(
    graph: Graph, top: Call, cut: Call | None, num_classes: int
) -> tuple[keras.Model, list[tuple[Any, Any]]]:
    """Returns the layers up to `top` again under a new head, and (original, twin) up to `cut`."""
    tensors = {
        id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in graph.inputs
    }
    inputs = keras.tree.map_structure(lambda t: tensors[id(t)], graph.input_structure)
    twins: dict[int, Any] = {}
    pairs: list[tuple[Any, Any]] = []
    below = cut is not None
    for call in graph.calls:
        original = call.operation
        if id(original) not in twins:
            twins[id(original)] = copy_operation(original, _NAME)
            if below and isinstance(original, keras.Layer):
                pairs.append((original, twins[id(original)]))
        arguments, keywords = call.filled_in(tensors)
        outputs = keras.tree.flatten(twins[id(original)](*arguments, **keywords))
        tensors.update({id(t): u for t, u in zip(call.outputs, outputs, strict=True)})
        if cut is not None and call.node is cut.node:
            below = False
            pairs.sort(key=lambda pair: pair[0] is original)
        if call.node is top.node:
            break
    features = tensors[id(top.outputs[0])]
    rank = len(features.shape)
    if rank > 2:
        pooling = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")
        features = pooling(name="new_pooling")(features)
    head = keras.layers.Dense(num_classes, dtype="float32", name="new_head")
    whole = keras.Model(inputs, head(features))
    for layer in whole.layers:
        layer.trainable = True
    return whole, pairs


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
