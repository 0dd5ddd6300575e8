"""Writing a model as a SavedModel that serves fast and is known to be right."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from kerastools._core.graph.calls import Graph, read_graph, sublayers
from kerastools._core.sample_inputs import sample_inputs
from kerastools.export._comparison import largest_difference, predictions
from kerastools.export._export_report import ExportReport
from kerastools.export._graph_writer import write_graph
from kerastools.export._half_precision import in_bfloat16
from kerastools.export._latency import against_plain, num_nodes_of, size_of
from kerastools.export._polish import polish
from kerastools.export._signature import input_names, output_names
from kerastools.export._stages import with_stages
from kerastools.export._staging import appears_at_once, one_writer
from kerastools.export._warm_up import write_warm_up
from kerastools.folding import fold_batch_norm

_NAME = "export_savedmodel"


def export_savedmodel(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    fold: bool = True,
    freeze: bool = True,
    dtype: str | None = None,
    preprocessing: keras.Model | None = None,
    postprocessing: Callable[[Any], Any] | None = None,
    version: int | None = None,
    overwrite: bool = False,
    sample: Any = None,
    tolerance: float | None = None,
    warm_up: Sequence[int] = (),
    latency: Sequence[int] = (),
) -> ExportReport:
    """Writes `model` to `path/<version>/` as a SavedModel for inference, and proves it equal.

    Use it in place of `model.export(path)` to serve from TensorFlow Serving or any program that has
    TensorFlow; the reader needs neither Keras nor kerastools. Batch normalisations are folded away
    (`fold_batch_norm`), the weights stand in the graph as constants, which lets TensorFlow fuse
    and precompute more, and every weight is stored once, where Keras stores it twice.

    The signature `serving_default` takes and returns tensors by name: inputs are called after the
    keys of the input dictionary or the input layers, outputs after the keys of the output
    dictionary or the layers that make them. The batch may have any size, unless the model fixes it.

    To take raw data or return other things than the model does, put that into the graph too:

        images = keras.Sequential([
            keras.Input((None, None, 3), dtype="uint8", name="pixels"),
            keras.layers.Resizing(96, 96), keras.layers.Rescaling(1 / 255),
        ])
        export_savedmodel(model, path, preprocessing=images, postprocessing=keras.ops.softmax)

    After writing, the SavedModel is loaded again and compared with `model` on `sample`. Only then
    does it appear under its name, in one step: killed before, it leaves no new version, and what it
    leaves beside the versions the next export removes. Two exports to one `path` wait for each
    other. (Replacing a version is one step on Linux; elsewhere, a process killed between two
    renames leaves no version of that number until the next export brings the old one back.)

    Args:
        model: A built functional or Sequential model, on the TensorFlow backend. It is not changed.
        path: Directory of all versions, made if it is missing.
        fold: Whether to fold batch normalisations first. This also merges zero padding into the
            convolution after it, where that pads alike, and spells silu as x · σ(x), which
            TensorFlow fuses.
        freeze: Whether to put the weights into the graph as constants. Models beyond 2 GB and
            models that change their own state in inference keep variables; the report says so.
        dtype: `"bfloat16"` computes all but the output layers in bfloat16: faster on processors
            that have instructions for it, slower on others, and not exact; the report prints how
            far off. By default each layer's own.
        preprocessing: A built model from what clients send to the inputs of `model`.
        postprocessing: A function or layer from the outputs of `model` to what clients receive.
            Return a dictionary to name it; by default it has the names of the outputs of `model`.
        version: Number of this version, 1 or more. By default the next one in `path`.
        overwrite: Whether to replace an existing version.
        sample: Inputs of a few rows for the comparison, as clients send them. By default random:
            normal numbers, 0 and 1 for integers (0 to 255 for uint8), 32 for sizes that are open.
        tolerance: Largest difference allowed, relative to the largest output. By default 5e-3, or
            0.1 if a layer computes in half precision; float32 typically gives 1e-6 to 1e-4.
        warm_up: Batch sizes, such as `(1, 32)`, for which TensorFlow Serving makes a request when
            it loads the model, so that no client waits for the first, slow one. The rows are those
            of the comparison.
        latency: Batch sizes, such as `(1, 32)`, at which to time it against `model.export`, which
            is written to a temporary directory for that. Takes as long as a plain export and some
            ten seconds per size. By default nothing is timed.

    Returns:
        An `ExportReport`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the backend is not TensorFlow, the model is subclassed or not built, the
            version is taken or not a number, the preprocessing, the sample or a batch size does not
            fit, or the SavedModel computes something else than the model. Nothing is left behind.

    Example:

    >>> import tempfile  # doctest: +SKIP
    >>> model = keras.Sequential([
    ...     keras.Input((4,), name="measurements"), keras.layers.Dense(2, name="scores")
    ... ])
    >>> report = export_savedmodel(model, tempfile.mkdtemp())  # doctest: +SKIP
    >>> report.inputs, report.outputs  # doctest: +SKIP
    ({'measurements': ('float32', (None, 4))}, {'scores': ('float32', (None, 2))})
    >>> report.largest_difference < 1e-6  # doctest: +SKIP
    True
    """
    graph = read_graph(model, _NAME)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"{_NAME} needs the TensorFlow backend, because it writes TensorFlow's graph. Received "
            f'the backend "{keras.backend.backend()}". Save the model with model.save(), start '
            "again with KERAS_BACKEND=tensorflow, load it and export."
        )
    if dtype not in (None, "bfloat16"):
        raise ValueError(
            f'{_NAME} needs dtype to be None or "bfloat16". Received dtype={dtype!r}. Other types '
            "are set where the model is built, with keras.config.set_dtype_policy."
        )
    root = Path(path)
    _checked_version(root, version, overwrite)
    graph = with_stages(graph, preprocessing, postprocessing, _NAME)
    _check_batch_sizes(graph, warm_up=warm_up, latency=latency)
    inputs = sample_inputs(graph, sample, _NAME)
    served, report = graph.model, None
    if fold:
        served, report = fold_batch_norm(graph.model, return_report=True)
        polish(served)
    if dtype:
        served = in_bfloat16(served, copied=fold)
    # After the copies, which have the same random state as the model has now.
    want = predictions(graph.model, inputs, _NAME)
    if tolerance is None:
        half = {"float16", "bfloat16"} & {layer.compute_dtype for layer in sublayers(served)}
        tolerance = 0.1 if half else 5e-3
    named = dict(zip(input_names(graph), keras.tree.flatten(inputs), strict=True))
    outputs = dict(zip(output_names(graph), want, strict=True))
    with one_writer(root):
        # Again: another process may have written one meanwhile.
        version = _checked_version(root, version, overwrite)
        with appears_at_once(root, version) as directory:
            frozen, note = write_graph(served, graph, directory, freeze, copied=fold)
            if warm_up:
                write_warm_up(directory, root.resolve().name, named, warm_up)
            got, num_nodes = _load_and_call(directory, named)
            return ExportReport(
                model=model.name,
                path=str(root / str(version)),
                version=version,
                inputs=_described(named, graph.inputs),
                outputs=_described(outputs, graph.outputs),
                fold=report,
                frozen=frozen,
                note=note,
                dtype=dtype,
                largest_difference=largest_difference(model.name, got, outputs, tolerance),
                tolerance=tolerance,
                num_nodes=num_nodes,
                size_bytes=size_of(directory),
                **against_plain(directory, graph, inputs, latency),
            )


def _checked_version(root: Path, version: int | None, overwrite: bool) -> int:
    if root.exists() and not root.is_dir():
        raise ValueError(
            f"{_NAME} needs a directory for the versions. Received path={str(root)!r}, which is a "
            "file. Pass another path."
        )
    taken = [int(p.name) for p in root.glob("*") if p.name.isdecimal()] if root.exists() else []
    if version is None:
        return max(taken, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(
            f"{_NAME} needs version to be an integer of 1 or more, as TensorFlow Serving reads it "
            f"from the directory's name. Received version={version!r}."
        )
    if version in taken and not overwrite:
        raise ValueError(
            f"{_NAME} does not replace an existing version. Received version={version}, but "
            f"{str(root / str(version))!r} exists. Leave version out to write version "
            f"{max(taken) + 1}, or pass overwrite=True."
        )
    return version


def _check_batch_sizes(graph: Graph, **arguments: Sequence[int]) -> None:
    fixed = {t.shape[0] for t in graph.inputs} - {None}
    for argument, sizes in arguments.items():
        for size in sizes:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1 or fixed - {size}:
                expected = (
                    f"{fixed.pop()}, which the model fixes" if fixed else "integers of 1 or more"
                )
                raise ValueError(
                    f"{_NAME} needs {argument} to hold batch sizes: {expected}. "
                    f"Received {argument}={tuple(sizes)}."
                )


def _load_and_call(directory: Path, named: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Returns what the SavedModel computes, and how many operations its graph has."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(directory))
    signature = loaded.signatures["serving_default"]
    results = {name: y.numpy() for name, y in signature(**named).items()}
    return results, num_nodes_of(signature)


def _described(
    named: dict[str, Any], tensors: list[Any]
) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    return {
        name: (keras.backend.standardize_dtype(t.dtype), tuple(t.shape))
        for name, t in zip(named, tensors, strict=True)
    }
