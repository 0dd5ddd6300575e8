"""Statistics of batch normalisation, measured on data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.graph.calls import Call, as_recorded, read_graph, replay
from kerastools._core.graph.kinds import kind_of
from kerastools._core.keras_private.graph_nodes import mask_of
from kerastools._core.keras_private.training import batch_moments


@dataclass
class _Sums:
    """What the batches of one layer add up to, and the statistics that it had before."""

    layer: Any
    before: tuple[Any, Any]
    rows: int = 0
    mean: Any = 0.0
    square: Any = 0.0

    def add(self, rows: int, mean: np.ndarray, variance: np.ndarray) -> None:
        self.rows += rows
        self.mean = self.mean + rows * mean
        self.square = self.square + rows * (variance + mean**2)

    def set(self) -> None:
        mean = self.mean / self.rows
        self.layer.moving_mean.assign(mean)
        self.layer.moving_variance.assign(np.maximum(self.square / self.rows - mean**2, 0.0))

    def restore(self) -> None:
        self.layer.moving_mean.assign(self.before[0])
        self.layer.moving_variance.assign(self.before[1])


def measure_batch_norm(
    model: Any,
    x: Any,
    batch_size: int,
    caller: str,
    measures: Callable[[Call], bool] = lambda call: True,
) -> None:
    """Sets the moving statistics of batch normalisations of `model` to those of `x`.

    Each batch of n_b rows goes through the model once, normalised by its own mean μ_b and variance
    σ²_b, and all else as in inference. Then μ = Σ n_b μ_b / n, σ² = Σ n_b (σ²_b + μ_b²) / n − μ².
    A last batch that is not full is left out: a few rows would disturb all layers above. On an
    error, an interrupt too, all statistics are what they were.

    Args:
        model: A functional or Sequential model.
        x: Its inputs, an array or a structure of arrays.
        batch_size: n_b.
        caller: Named in messages of errors.
        measures: Says for a call in the graph whether its layer is measured there; by default all
            are, frozen ones too.

    Raises:
        ValueError: If the graph of the model cannot be read, or there is no row.
    """
    graph = read_graph(model, caller)
    x = keras.tree.map_structure(np.asarray, x)
    num_rows = len(keras.tree.flatten(x)[0])
    if num_rows == 0:
        raise ValueError(f"{caller} needs rows to measure statistics on. Received none.")
    sums: dict[int, _Sums] = {}

    def measure(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = call.operation
        if kind_of(operation).moving_statistics and measures(call):
            mean, variance = _moments(operation, args[0], kwargs.get("mask"))
            if id(operation) not in sums:
                before = _to_numpy(operation.moving_mean), _to_numpy(operation.moving_variance)
                sums[id(operation)] = _Sums(operation, before)
            sums[id(operation)].add(args[0].shape[0], mean, variance)
            operation.moving_mean.assign(mean)
            operation.moving_variance.assign(variance)
        return as_recorded(call, args, kwargs)

    with _restored_on_error(sums):
        for start in range(0, max(num_rows - batch_size, 0) + 1, batch_size):
            stop = start + batch_size
            rows = keras.tree.map_structure(lambda a, i=start, j=stop: a[i:j], x)
            # Stated, because augmentation layers are on by default.
            replay(graph, rows, measure, training=False)
        for one in sums.values():
            one.set()


def _moments(layer: Any, inputs: Any, mask: Any) -> list[np.ndarray]:
    """Returns mean and variance as the layer takes them of a batch in training, in float64."""
    mask = mask_of(inputs) if mask is None else mask
    inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    return [_to_numpy(m).astype("float64") for m in batch_moments(layer, inputs, mask)]


def _to_numpy(tensor: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(tensor))


@contextmanager
def _restored_on_error(sums: dict[int, _Sums]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for one in sums.values():
            one.restore()
        raise
