"""How a SavedModel compares with the one that `model.export` writes."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core.sample_inputs import first_line

_WARM_UP, _FEWEST, _MOST = 3, 5, 50
_SECONDS = 5.0


def against_plain(
    directory: Path, model: Any, arguments: list[Any], sizes: Sequence[int]
) -> tuple[dict[str, Any], str | None]:
    """Returns the fields of the report that compare with Keras's own export, or why not."""
    import tensorflow as tf

    if not sizes:
        return {}, None
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        try:
            model.export(plain, format="tf_saved_model", verbose=False)
        except Exception as error:  # Whatever Keras raises; the model is written all the same.
            return {}, f"not timed, because model.export fails: {first_line(error)}"
        signature = tf.saved_model.load(str(plain)).signatures["serving_default"]
        return {
            "latency": _latencies([directory, plain], arguments, sizes),
            "plain_num_nodes": num_nodes_of(signature),
            "plain_size_bytes": size_of(plain),
        }, None


def num_nodes_of(signature: Any) -> int:
    """Returns how many operations the graph of a signature has."""
    definition = signature.graph.as_graph_def()
    return len(definition.node) + sum(len(f.node_def) for f in definition.library.function)


def size_of(directory: Path) -> int:
    """Returns the bytes that all files in a directory have."""
    return sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())


def _latencies(
    paths: Sequence[Path], arguments: list[Any], batch_sizes: Sequence[int]
) -> dict[int, tuple[float, ...]]:
    """Returns, by batch size, the median milliseconds of one call of `serve` of each of `paths`.

    They take turns, so that a busy machine slows all alike. The rows are those of the arguments in
    turn.
    """
    import tensorflow as tf

    loaded = [tf.saved_model.load(str(path)) for path in paths]
    result = {}
    for size in batch_sizes:
        batch = keras.tree.map_structure(
            lambda x, size=size: tf.constant(rows(np.asarray(x), size)), arguments
        )
        result[size] = _medians([model.serve for model in loaded], batch)
    return result


def rows(array: np.ndarray, size: int) -> np.ndarray:
    """Returns `size` rows of `array`, in turn."""
    return array[np.arange(size) % len(array)]


def _medians(calls: list[Callable[..., Any]], arguments: list[Any]) -> tuple[float, ...]:
    times: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    for round_ in range(_WARM_UP + _MOST):
        enough = round_ >= _WARM_UP + _FEWEST and time.perf_counter() - begin > _SECONDS
        if enough:
            break
        for spent, serve in zip(times, calls, strict=True):
            start = time.perf_counter()
            serve(*arguments)
            spent.append(1e3 * (time.perf_counter() - start))
    return tuple(statistics.median(spent[_WARM_UP:]) for spent in times)
