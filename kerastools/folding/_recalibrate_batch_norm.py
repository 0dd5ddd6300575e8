"""Statistics of batch normalisation that fit the weights as they are."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from kerastools._core._checks import require_finite
from kerastools._core._graph import Graph, has_graph, read_graph

_NAME = "recalibrate_batch_norm"


def recalibrate_batch_norm(model: keras.Model, data: Any, batch_size: int = 256) -> keras.Model:
    """Sets the moving statistics of all batch normalisations from `data`, in place, and returns it.

    Moving averages lag behind the weights, and what they average are statistics of small batches.
    So they do not fit weights that changed after training, such as averaged weights (EMA, SWA), and
    are noisy after training with small batches; nor do they fit data from another source. This
    replaces them by the mean and variance over `data`. Use it before `fold_batch_norm`.

    Each batch b of n_b rows goes through the model once, with batch normalisation in training mode
    and everything else in inference (dropout and augmentation are off). With μ_b and σ²_b its
    statistics, and n = Σn_b:

        μ  = Σ n_b μ_b / n
        σ² = Σ n_b (σ²_b + μ_b²) / n − μ²

    A last batch that is not full is left out, unless it is the only one: statistics of a few rows
    would disturb all layers above. Weights stay, and so do batch normalisations that are frozen
    (`trainable=False`), called with `training=False`, made with `renorm=True`, or inside of layers
    such as `TimeDistributed`.

    Args:
        model: A built functional or Sequential model.
        data: Inputs as the model takes them: an array, or a list or dictionary of arrays. A few
            thousand rows do; labels are not needed.
        batch_size: Rows per batch. Larger fits better: the statistics of one layer are measured on
            what the layers below give under the statistics of the same batch.

    Returns:
        `model`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or is subclassed, or the data are empty, not finite,
            or of another structure or number of rows. The model is then as it was, as it is after
            an interrupt.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    >>> x = np.array([[1.0], [3.0], [5.0], [7.0]])
    >>> norm = recalibrate_batch_norm(model, x).layers[0]
    >>> float(norm.moving_mean[0]), float(norm.moving_variance[0])
    (4.0, 5.0)

    Reference: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3; Izmailov et al.,
    "Averaging weights leads to wider optima and better generalization", UAI 2018.
    """
    graph = read_graph(model, _NAME)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"{_NAME} needs batch_size ≥ 1. Received batch_size={batch_size!r}.")
    arrays = _arrays(graph, data)
    layers = {id(layer): layer for layer in _batch_norms(graph)}
    sums = {key: np.zeros((2, *layer.moving_mean.shape)) for key, layer in layers.items()}
    num_rows = dict.fromkeys(layers, 0)

    def observe(layer: Any, rows: int) -> None:
        mean, variance = (
            keras.ops.convert_to_numpy(v).astype("float64")
            for v in (layer.moving_mean, layer.moving_variance)
        )
        sums[id(layer)] += rows * np.stack([mean, variance + mean**2])
        num_rows[id(layer)] += rows

    with _batch_statistics(layers.values()):
        for b in range(max(len(arrays[0]) // batch_size, 1)):
            batch = [
                keras.ops.convert_to_tensor(a[b * batch_size : (b + 1) * batch_size], t.dtype)
                for a, t in zip(arrays, graph.inputs, strict=True)
            ]
            _run(graph, batch, layers, observe)
    for key, layer in layers.items():
        mean, square = sums[key] / num_rows[key]
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(square - mean**2, 0.0))
    return model


def _arrays(graph: Graph, data: Any) -> list[np.ndarray]:
    try:
        keras.tree.assert_same_structure(data, graph.input_structure)
    except ValueError as error:
        raise ValueError(
            f"{_NAME} needs inputs as the model takes them, without labels. Received {error}"
        ) from error
    arrays = [require_finite("data", x, _NAME) for x in keras.tree.flatten(data)]
    for array, tensor in zip(arrays, graph.inputs, strict=True):
        sizes = zip(array.shape[1:], tensor.shape[1:], strict=False)
        if array.ndim != len(tensor.shape) or any(want not in (None, have) for have, want in sizes):
            raise ValueError(
                f'{_NAME} needs data of shape {tuple(tensor.shape)} for the input "{tensor.name}". '
                f"Received an array of shape {array.shape}."
            )
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            f"{_NAME} needs as many rows in each input. Received {[len(a) for a in arrays]}."
        )
    return arrays


def _batch_norms(graph: Graph) -> list[Any]:
    """Returns the layers that can move, of nested models too, each once."""
    found: dict[int, Any] = {}
    for call in graph.calls:
        layer = call.operation
        if has_graph(layer):
            found |= {id(inner): inner for inner in _batch_norms(Graph(layer))}
        elif isinstance(layer, keras.layers.BatchNormalization):
            # Batch renormalisation keeps averages of its own.
            moves = layer.trainable and not layer.renorm
            if moves and call.argument("training") is not False:
                found[id(layer)] = layer
    return list(found.values())


@contextlib.contextmanager
def _batch_statistics(layers: Iterable[Any]) -> Iterator[None]:
    """Makes moving statistics those of the last batch; on an error they are what they were."""
    before = [
        (layer, layer.momentum, layer.moving_mean.numpy(), layer.moving_variance.numpy())
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    except BaseException:
        for layer, _, mean, variance in before:
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
        raise
    finally:
        for layer, momentum, _, _ in before:
            layer.momentum = momentum


def _run(
    graph: Graph,
    inputs: list[Any],
    moving: dict[int, Any],
    observe: Callable[[Any, int], None],
) -> list[Any]:
    """Computes the graph, with the layers in `moving` in training mode and observed."""
    tensors = {id(t): x for t, x in zip(graph.inputs, inputs, strict=True)}
    for call in graph.calls:
        layer = call.operation
        args, kwargs = call.filled_in(tensors)
        if has_graph(layer):
            outputs = _run(Graph(layer), keras.tree.flatten(args), moving, observe)
        elif id(layer) in moving and call.argument("training") is not False:
            outputs = layer(*args, **{**kwargs, "training": True})
            observe(layer, len(inputs[0]))
        elif "training" in inspect.signature(layer.call).parameters:
            # Told so: augmentation layers are on by default.
            outputs = layer(*args, **{**kwargs, "training": False})
        else:
            outputs = layer(*args, **kwargs)
        for symbolic, tensor in zip(call.outputs, keras.tree.flatten(outputs), strict=True):
            tensors[id(symbolic)] = tensor
    return [tensors[id(t)] for t in graph.outputs]
