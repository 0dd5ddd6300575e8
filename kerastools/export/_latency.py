"""How a SavedModel compares with the one that `model.export` writes."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Graph
from kerastools.export._signature import input_names

_WARM_UP, _FEWEST, _MOST = 3, 5, 50
_SECONDS = 5.0


def against_plain(
    directory: Path, graph: Graph, inputs: Any, sizes: Sequence[int]
) -> dict[str, Any]:
    """Returns the fields of the report that compare with Keras's own export."""
    import tensorflow as tf

    if not sizes:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        graph.model.export(plain, verbose=False)
        signature = tf.saved_model.load(str(plain)).signatures["serving_default"]
        return {
            "latency": _latencies([directory, plain], graph, inputs, sizes),
            "plain_num_nodes": num_nodes_of(signature),
            "plain_size_bytes": size_of(plain),
        }


def num_nodes_of(signature: Any) -> int:
    """Returns how many operations the graph of a signature has."""
    definition = signature.graph.as_graph_def()
    return len(definition.node) + sum(len(f.node_def) for f in definition.library.function)


def size_of(directory: Path) -> int:
    """Returns the bytes that all files in a directory have."""
    return sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())


def _latencies(
    paths: Sequence[Path], graph: Graph, inputs: Any, batch_sizes: Sequence[int]
) -> dict[int, tuple[float, ...]]:
    """Returns, by batch size, the median milliseconds of one request to each of `paths`.

    They take turns, so that a busy machine slows all alike. The rows are those of `inputs` in turn.
    """
    import tensorflow as tf

    loaded = [tf.saved_model.load(str(path)) for path in paths]
    arrays = [np.asarray(x) for x in keras.tree.flatten(inputs)]
    result = {}
    for size in batch_sizes:
        batch = [tf.constant(rows(x, size)) for x in arrays]
        signatures = [model.signatures["serving_default"] for model in loaded]
        result[size] = _medians([(call, _feed(call, graph, batch)) for call in signatures])
    return result


def rows(array: np.ndarray, size: int) -> np.ndarray:
    """Returns `size` rows of `array`, in turn."""
    return array[np.arange(size) % len(array)]


def _feed(signature: Any, graph: Graph, batch: list[Any]) -> dict[str, Any]:
    """Returns `batch` by the names of a signature: ours, or those that Keras gives its own."""
    layers = [layer.name for layer in graph.input_layers]
    named = list(zip(input_names(graph), layers, [t.name for t in graph.inputs], strict=True))
    return {
        name: next(x for x, names in zip(batch, named, strict=True) if {name, spec.name} & {*names})
        for name, spec in signature.structured_input_signature[1].items()
    }


def _medians(calls: list[tuple[Callable[..., Any], dict[str, Any]]]) -> tuple[float, ...]:
    times: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    for round_ in range(_WARM_UP + _MOST):
        enough = round_ >= _WARM_UP + _FEWEST and time.perf_counter() - begin > _SECONDS
        if enough:
            break
        for spent, (signature, batch) in zip(times, calls, strict=True):
            start = time.perf_counter()
            signature(**batch)
            spent.append(1e3 * (time.perf_counter() - start))
    return tuple(statistics.median(spent[_WARM_UP:]) for spent in times)
