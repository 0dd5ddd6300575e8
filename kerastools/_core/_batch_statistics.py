"""Statistics of batch normalisation measured on data, whether its layer is frozen or not."""

from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core._graph import read_graph
from kerastools._core._run import run_graph, takes_training


def measure_batch_norm(model: Any, x: Any, batch_size: int, caller: str) -> None:
    """Sets the moving statistics of every batch normalisation of `model` to those of `x`.

    Each batch of n_b rows goes through the model once, normalised by its own mean μ_b and variance
    σ²_b, and all else as in inference. Then μ = Σ n_b μ_b / n, σ² = Σ n_b (σ²_b + μ_b²) / n − μ².

    Raises:
        ValueError: If the graph of the model cannot be read, or there is no row.
    """
    graph = read_graph(model, caller)
    x = keras.tree.map_structure(np.asarray, x)
    num_rows = len(keras.tree.flatten(x)[0])
    if num_rows == 0:
        raise ValueError(f"{caller} needs rows to measure statistics on. Received none.")
    sums: dict[int, tuple[Any, list[Any]]] = {}

    def apply(path: str, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(operation, keras.layers.BatchNormalization):
            inputs = ops.cast(args[0], "float32")
            axes = [i for i in range(len(inputs.shape)) if i != operation.axis % len(inputs.shape)]
            mean, variance = (ops.convert_to_numpy(m) for m in ops.moments(inputs, axes))
            _, total = sums.setdefault(id(operation), (operation, [0, 0.0, 0.0]))
            rows = inputs.shape[0]
            total[0] += rows
            total[1] = total[1] + rows * mean.astype("float64")
            total[2] = total[2] + rows * (variance.astype("float64") + mean.astype("float64") ** 2)
            operation.moving_mean.assign(mean)
            operation.moving_variance.assign(variance)
        if isinstance(operation, keras.Layer) and takes_training(operation):
            # Told so: augmentation layers are on by default.
            kwargs = {**kwargs, "training": False}
        return operation(*args, **kwargs)

    # A last batch of a few rows would disturb the statistics of all layers above it.
    for start in range(0, max(num_rows - batch_size, 0) + 1, batch_size):
        stop = start + batch_size
        run_graph(graph, keras.tree.map_structure(lambda a, i=start, j=stop: a[i:j], x), apply)
    for layer, (rows, mean, square) in sums.values():
        layer.moving_mean.assign(mean / rows)
        layer.moving_variance.assign(np.maximum(square / rows - (mean / rows) ** 2, 0.0))
