"""Training a head on features that a frozen trunk computed once."""

import json
import os
import re
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import read_graph, sublayers
from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools.optimizers import rebind
from kerastools.transfer._depth.cut import cuts, find_call, split
from kerastools.transfer._features.rows import FeatureRows, gather, is_dataset
from kerastools.transfer._features.store import FeatureStore, fingerprint
from kerastools.transfer._refusal import CannotCacheError, reason_against, reason_seen

_NAME = "FeatureCache"
# So many rows show whether the layers below do in training what they do in inference.
_TRIED = 4


class FeatureCache:
    """Runs the frozen lower layers of a model once over the data and trains what is above them.

    While a trunk is frozen, every epoch computes the same features of the same rows. This computes
    them in one pass, in the order of the rows, and fits the layers above on them: the losses are
    those of `model.fit`, in a fraction of the time (about the number of epochs, for a deep trunk).
    It is an ordinary part of a run: the head is trained with the model's own optimizer, loss and
    metrics, and when `fit` returns, the optimizer is fitted to the whole model again and
    `model.fit` goes on, say under a `kerastools.callbacks.FreezeSchedule`.

    It refuses, with the reason, where the outcome would be another: layers that train, batch
    normalisation that is not frozen, dropout or random augmentation (which draw while frozen too),
    layers that add to the loss or change state in training, and datasets that come in another order
    each time. Features belong to the weights below the cut and to the data, both by their hash: if
    a weight has changed, or other rows are passed, they are computed anew.

    Args:
        model: A built functional or Sequential model, compiled if `fit` shall be used.
        upto: The last layer whose output is kept: an outermost layer of the model, or its name,
            through which everything goes. By default the highest that may be.
        directory: A folder to keep the features in, for data that exceed the memory or to find them
            again in another process; a pass that was cut off goes on where it was. By default they
            are kept in memory.

    Attributes:
        upto: The name of the last layer below the cut.
        prefix: The layers up to the cut, as a model.
        head: The layers above it, as a model; the very layers, so that what it learns the model
            has.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or subclassed, `upto` is not found, or the features
            may not be kept.

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
        reasons: dict[str, str] = {}
        for call in graph.calls:
            reason = reason_against(call.operation)
            if reason is not None:
                reasons.setdefault(call.operation.name, reason)
        places = {id(call): i for i, call in enumerate(graph.calls)}
        clean = next(
            (i for i, c in enumerate(graph.calls) if c.operation.name in reasons), len(graph.calls)
        )
        # What is above the cut must exist.
        possible = [c for c in cuts(graph) if not graph.is_output(c.outputs[0])]
        if upto is None:
            allowed = [c for c in possible if places[id(c)] < clean]
            if not allowed:
                first = next(
                    iter(reasons.values()), "everything goes through no single layer of it"
                )
                raise _refused(model, first)
            call = allowed[-1]
        else:
            call = find_call(graph, upto, possible, _NAME)
            if places[id(call)] >= clean:
                raise _refused(model, next(iter(reasons.values())))
        self.upto = call.operation.name
        self.prefix, self.head = split(graph, call)
        self._store = FeatureStore(directory)
        self._state: str | None = None
        self._tried = False

    def features(self, x: Any, batch_size: int = 32, verbose: Any = "auto") -> np.ndarray:
        """Returns the output of the cut for every row of `x`, in order, computed if need be.

        Args:
            x: An array, or a list or dictionary of arrays, as the model takes them.
            batch_size: Rows per call.
            verbose: 0 for silence, otherwise a progress bar.

        Returns:
            An array with a row per row of `x`; with a directory, one that lies in a file.

        Raises:
            ValueError: If the layers below the cut may not be cached (any more).
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
        """Trains the layers above the cut, as `model.fit` would, and returns the history.

        Args:
            x: Arrays as the model takes them, or a dataset (`tf.data.Dataset`, `PyDataset`) that
                yields `(x, y)` or `(x, y, sample_weight)` in the same order each time, in batches
                of one size; its batches are then kept together unless `shuffle=True` is passed.
            y: The targets, if `x` is arrays.
            **arguments: What `fit` takes: `epochs`, `batch_size`, `validation_data`, `callbacks`,
                `sample_weight` and so on. Callbacks see the head as their model.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: If the model is not compiled, nothing above the cut trains, the layers below
                it may not be cached (any more), or a dataset comes in another order each time.
        """
        if not self.model.compiled:
            raise ValueError(
                f'{_NAME}.fit needs a compiled model. Received model "{self.model.name}". Call '
                "model.compile(optimizer, loss) first; the head is trained with both."
            )
        if not self.head.trainable_weights:
            raise ValueError(
                f'{_NAME}.fit needs layers that train above "{self.upto}". Received model '
                f'"{self.model.name}", in which all of them are frozen.'
            )
        verbose = arguments.get("verbose", "auto")
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
            # Keras would read the whole file into memory.
            batches = FeatureRows(features, y, arguments)
            arguments = batches.left_for_fit()
            data: tuple[Any, ...] = (batches,)
        else:
            data = (features, y)
        return self._fit_head(data, arguments)

    def _fit_head(self, data: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        model = self.model
        rebind(model.optimizer, model)  # What has been frozen since it was built leaves.
        self.head.compile(**compile_arguments(model))
        rebind(self.head.optimizer, self.head)
        try:
            return self.head.fit(*data, **arguments)
        finally:
            rebind(model.optimizer, model)

    def _check(self, x: Any) -> None:
        """Raises if the prefix may not be cached; forgets features of other weights."""
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
        f'{_NAME} cannot keep the features of model "{model.name}": {reason}; or cut lower, with '
        "upto=, or train without a cache, with model.fit."
    )


def _structure(prefix: keras.Model) -> str:
    """Returns what the layers compute, as text, whatever Keras has named them."""
    try:
        text = json.dumps(prefix.get_config(), sort_keys=True, default=str)
    except NotImplementedError:  # A class without a config is known by its name.
        return " ".join(type(layer).__name__ for layer in sublayers(prefix))
    places = {layer.name: f'"layer {i}"' for i, layer in enumerate(sublayers(prefix))}
    return re.sub(r'"([^"]*)"', lambda found: places.get(found[1], found[0]), text)


def _as_array(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else keras.ops.convert_to_numpy(values)
