"""`FeatureCache`: training a head on cached features of a frozen trunk."""

import json
import os
import re
from typing import Any

import keras
import numpy as np

from kerastools._core.batches import is_dataset
from kerastools._core.graph.calls import read_graph, sublayers
from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools._core.keras_private.optimizer_hooks import strategy_scope
from kerastools.optimizers import rebind
from kerastools.transfer._depth.cut import cuts, find_call, split
from kerastools.transfer._features.rows import FeatureRows, gather
from kerastools.transfer._features.store import FeatureStore, fingerprint
from kerastools.transfer._refusal import CannotCacheError, reason_against, reason_seen

_NAME = "FeatureCache"
# Rows on which training and inference of the layers below are compared.
_TRIED = 4


class FeatureCache:
    """Feature cache: runs frozen lower layers once over the data, and trains the layers above.

    While a trunk is frozen, every epoch computes the same features of the same rows. `FeatureCache`
    computes them in one pass, and fits the layers above on them. The losses are those of
    `model.fit`; the time is shorter by a factor of about the number of epochs for a deep trunk. The
    head is trained with the model's own optimizer, loss and metrics. When `fit` returns, the
    optimizer covers the whole model again, and `model.fit` can continue, for example under a
    `kerastools.callbacks.FreezeSchedule`.

    It raises, with the reason, if the result would differ: trainable layers, batch normalization
    that is not frozen, dropout or random augmentation (random while frozen, too), layers that add
    to the loss or change state in training, and datasets that yield another order each time.
    Features are stored by a hash of the weights below the cut and of the data; if either changes,
    they are computed again.

    Args:
        model: A built functional or Sequential model, compiled if `fit` is used.
        upto: The last layer whose output is cached: an outermost layer of the model, or its name,
            through which everything goes. By default the highest that can be cached.
        directory: Directory to store the features in, for data that exceed the memory or for later
            processes; an interrupted pass is continued. By default they are in memory.

    Attributes:
        upto: Name of the last layer below the cut.
        prefix: The layers up to the cut, as a model.
        head: The layers above the cut, as a model that shares them with `model`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or is subclassed, `upto` is not found, or the features
            cannot be cached.

    Example:

    >>> layers = [keras.layers.Dense(8, "tanh", name="trunk"), keras.layers.Dense(1, name="head")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> model.get_layer("trunk").trainable = False
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((8, 3)), np.ones((8, 1))
    >>> cache = FeatureCache(model)
    >>> history = cache.fit(x, y, epochs=5, verbose=0)
    >>> cache.upto, cache.features(x, verbose=0).shape, len(history.epoch)
    ('trunk', (8, 8), 5)

    Reference: Liu et al., "AutoFreeze: automatically freezing model blocks to accelerate
    fine-tuning", 2021, section 3.3.
    """

    def __init__(
        self,
        model: keras.Model,
        upto: str | keras.Layer | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        graph = read_graph(model, _NAME)
        self.model = model
        reason, below = None, set()
        for call in graph.calls:
            reason = reason_against(call.operation)
            if reason is not None:
                break
            below.add(call)
        # What is above the cut must exist.
        possible = [c for c in cuts(graph) if not graph.is_output(c.outputs[0])]
        if upto is not None:
            possible = [find_call(graph, upto, possible, _NAME)]
        allowed = [c for c in possible if c in below]
        if not allowed:
            raise _refused(model, reason or "it has no layer through which everything goes")
        call = allowed[-1]
        self.upto = call.operation.name
        with strategy_scope(model):
            self.prefix, self.head = split(graph, call)
        self._store = FeatureStore(directory)
        self._state: str | None = None
        self._tried = False

    def features(self, x: Any, batch_size: int = 32, verbose: Any = "auto") -> np.ndarray:
        """Returns the features of `x`, computed if they are not in the cache.

        Args:
            x: Inputs of the model: an array, or a list or dictionary of arrays.
            batch_size: Rows per call.
            verbose: 0 for no progress bar.

        Returns:
            An array with one row per row of `x`; with a `directory`, a memory-mapped file.

        Raises:
            ValueError: If the layers below the cut cannot be cached (any more).
        """
        x = keras.tree.map_structure(_as_array, x)
        num_rows = len(keras.tree.flatten(x)[0])
        if num_rows == 0:
            raise ValueError(f"{_NAME} needs at least one row. Received none.")
        self._check(x)

        def compute(start: int, stop: int) -> np.ndarray:
            rows = keras.tree.map_structure(lambda a: a[start:stop], x)
            return np.asarray(self.prefix.predict(rows, batch_size=batch_size, verbose=0))

        key = fingerprint(self._state or "", x)
        return self._store.get(key, num_rows, compute, batch_size, verbose not in (0, False))

    def fit(self, x: Any, y: Any = None, **arguments: Any) -> Any:
        """Trains the layers above the cut like `model.fit`, and returns the history.

        Args:
            x: Inputs of the model, or a dataset (`tf.data.Dataset`, `PyDataset`) that yields
                `(x, y)` or `(x, y, sample_weight)` in the same order each time, in batches of one
                size; its rows are not shuffled unless `shuffle=True` is passed.
            y: Targets, if `x` is arrays.
            **arguments: Other arguments of `fit`: `epochs`, `batch_size`, `validation_data`,
                `callbacks`, `sample_weight` ... The model of the callbacks is the head.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: If the model is not compiled, no layer above the cut is trainable, the
                layers below it cannot be cached (any more), or a dataset yields another order each
                time.
        """
        if not self.model.compiled:
            raise ValueError(
                f'{_NAME}.fit needs a compiled model. Received model "{self.model.name}". Call '
                "model.compile(optimizer, loss) first."
            )
        if not self.head.trainable_weights:
            raise ValueError(
                f'{_NAME}.fit needs trainable layers above "{self.upto}". Received model '
                f'"{self.model.name}", in which they are frozen.'
            )
        verbose = arguments.get("verbose", "auto")
        if hasattr(x, "__next__"):
            raise CannotCacheError(
                f"{_NAME}.fit needs data that can be read again. Received a generator. Pass "
                "arrays, a PyDataset or a tf.data.Dataset."
            )
        if is_dataset(x):
            x, y, arguments = gather(x, arguments, _NAME)
        validation = arguments.get("validation_data")
        if validation is not None:
            if is_dataset(validation):
                val_x, val_y, weight = gather(validation, {}, _NAME)
                weights = [weight[k] for k in ("sample_weight",) if k in weight]
                validation = (val_x, val_y, *weights)
            size = arguments.get("validation_batch_size") or arguments.get("batch_size") or 32
            validation = (self.features(validation[0], size, verbose), *validation[1:])
            arguments = {**arguments, "validation_data": validation}
        features = self.features(x, arguments.get("batch_size") or 32, verbose)
        if isinstance(features, np.memmap):
            # Keras would load the whole file into memory.
            batches = FeatureRows(features, y, arguments)
            arguments = batches.left_for_fit()
            data: tuple[Any, ...] = (batches,)
        else:
            data = (features, y)
        return self._fit_head(data, arguments)

    def _fit_head(self, data: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        model = self.model
        rebind(model.optimizer, model)  # Drops variables frozen since it was built.
        with strategy_scope(model):
            self.head.compile(**compile_arguments(model))
        rebind(self.head.optimizer, self.head)
        try:
            return self.head.fit(*data, **arguments)
        finally:
            rebind(model.optimizer, model)

    def _check(self, x: Any) -> None:
        """Raises if the prefix cannot be cached; clears features of other weights."""
        state = fingerprint(_structure(self.prefix), self.prefix.variables)
        if state != self._state:
            self._store.forget()
            self._state, self._tried = state, False
        reason = next(filter(None, (reason_against(layer) for layer in self.prefix.layers)), None)
        if reason is None and not self._tried:
            reason = reason_seen(self.prefix, keras.tree.map_structure(lambda a: a[:_TRIED], x))
            self._tried = True
        if reason is not None:
            self._tried = False
            raise _refused(self.model, reason)


def _refused(model: keras.Model, reason: str) -> CannotCacheError:
    return CannotCacheError(
        f'{_NAME} cannot cache the features of model "{model.name}": {reason}. Or cut lower with '
        "upto=, or train without a cache by model.fit."
    )


def _structure(prefix: keras.Model) -> str:
    """Returns the configuration of the layers as text, independent of their names."""
    try:
        text = json.dumps(prefix.get_config(), sort_keys=True, default=str)
    except NotImplementedError:  # Layers without a config are described by their class.
        return " ".join(type(layer).__name__ for layer in sublayers(prefix))
    numbers = {layer.name: f'"layer {i}"' for i, layer in enumerate(sublayers(prefix))}
    return re.sub(r'"([^"]*)"', lambda found: numbers.get(found[1], found[0]), text)


def _as_array(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else keras.ops.convert_to_numpy(values)
