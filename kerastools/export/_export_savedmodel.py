"""Writing a model as a SavedModel that serves fast and is known to be right."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core._graph import Graph, read_graph, sublayers
from kerastools.export._export_report import ExportReport
from kerastools.export._signature import input_names, output_names, sample_inputs
from kerastools.export._staging import appears_at_once
from kerastools.export._warm_up import write_warm_up
from kerastools.folding import fold_batch_norm

_NAME = "export_savedmodel"
# A graph is one protocol buffer message, which holds less than 2 GiB; the rest is margin.
_LARGEST_GRAPH = 2**31 - 2**27


def export_savedmodel(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    fold: bool = True,
    freeze: bool = True,
    version: int | None = None,
    overwrite: bool = False,
    sample: Any = None,
    tolerance: float | None = None,
    warm_up: Sequence[int] = (),
) -> ExportReport:
    """Writes `model` to `path/<version>/` as a SavedModel for inference, and proves it equal.

    Use it in place of `model.export(path)` to serve from TensorFlow Serving or any program that has
    TensorFlow; the reader needs neither Keras nor kerastools. Batch normalisations are folded away
    (`fold_batch_norm`), the weights stand in the graph as constants, which lets TensorFlow fuse
    and precompute more, and every weight is stored once, where Keras stores it twice.

    The signature `serving_default` takes and returns tensors by name: inputs are called after the
    keys of the input dictionary or the input layers, outputs after the keys of the output
    dictionary or the layers that make them. The batch may have any size, unless the model fixes it.

    To take raw data or return other things than the model does, wrap it before: both become part of
    the graph, and the comparison covers them.

        pixels = keras.Input((None, None, 3), dtype="uint8", name="pixels")
        x = keras.layers.Rescaling(1 / 255)(keras.layers.Resizing(96, 96)(pixels))
        served = keras.Model(pixels, {"probabilities": keras.ops.softmax(model(x))})

    After writing, the SavedModel is loaded again and compared with `model` on `sample`. Only then
    does it appear under its name, in one step: whatever happens before, `path` has no new version.

    Args:
        model: A built functional or Sequential model, on the TensorFlow backend. It is not changed.
        path: Directory of all versions, made if it is missing.
        fold: Whether to fold batch normalisations first.
        freeze: Whether to put the weights into the graph as constants. Models beyond 2 GB and
            models that change their own state in inference keep variables; the report says so.
        version: Number of this version, 1 or more. By default the next one in `path`.
        overwrite: Whether to replace an existing version.
        sample: Inputs of a few rows for the comparison, as the model takes them. By default random:
            normal numbers, 0 and 1 for integers (0 to 255 for uint8), 32 for sizes that are open.
        tolerance: Largest difference allowed, relative to the largest output. By default 5e-3, or
            0.1 if a layer computes in half precision; float32 typically gives 1e-6 to 1e-4.
        warm_up: Batch sizes, such as `(1, 32)`, for which TensorFlow Serving makes a request when
            it loads the model, so that no client waits for the first, slow one. The rows are those
            of the comparison.

    Returns:
        An `ExportReport`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the backend is not TensorFlow, the model is subclassed or not built, the
            version is taken or not a number, the sample or a batch size does not fit, or the
            SavedModel computes something else than the model. Nothing is left behind.

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
    root = Path(path)
    version = _checked_version(root, version, overwrite)
    served, report = fold_batch_norm(model, return_report=True) if fold else (model, None)
    _check_warm_up(graph, warm_up)
    inputs = sample_inputs(graph, sample, _NAME)
    expected = _predictions(model, inputs)
    if not all(np.isfinite(y).all() for y in expected if np.issubdtype(y.dtype, np.floating)):
        raise ValueError(
            f'{_NAME} compares outputs, but model "{model.name}" returns NaN or infinity on the '
            "inputs of the comparison. Pass sample=, some rows of real data; if they give NaN too, "
            "the model's weights are broken."
        )
    if tolerance is None:
        half = {"float16", "bfloat16"} & {layer.compute_dtype for layer in sublayers(model)}
        tolerance = 0.1 if half else 5e-3
    with appears_at_once(root, version) as directory:
        frozen, note = _write(served, graph, directory, freeze)
        if warm_up:
            named = dict(zip(input_names(graph), keras.tree.flatten(inputs), strict=True))
            write_warm_up(directory, root.resolve().name, named, warm_up)
        return _checked_report(
            directory,
            root / str(version),
            graph,
            inputs,
            expected,
            tolerance,
            fold=report,
            frozen=frozen,
            note=note,
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


def _check_warm_up(graph: Graph, batch_sizes: Sequence[int]) -> None:
    fixed = {t.shape[0] for t in graph.inputs} - {None}
    for size in batch_sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or fixed - {size}:
            expected = f"{fixed.pop()}, which the model fixes" if fixed else "integers of 1 or more"
            raise ValueError(
                f"{_NAME} needs warm_up to hold batch sizes: {expected}. "
                f"Received warm_up={tuple(batch_sizes)}."
            )


def _predictions(model: Any, inputs: Any) -> list[np.ndarray]:
    """Returns the outputs as `predict` computes them."""
    import tensorflow as tf

    # Compiled: layers that resize uint8 images round to integers eagerly, but not in a graph.
    outputs = tf.function(lambda x: model(x, training=False), autograph=False)(inputs)
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs)]


def _write(served: Any, graph: Graph, directory: Path, freeze: bool) -> tuple[bool, str | None]:
    """Writes the SavedModel; returns whether its weights are constants, and if not so, why."""
    import tensorflow as tf

    note = _too_large(served) if freeze else None
    frozen = freeze and note is None
    if frozen:
        function, changes = _frozen_function(served, graph)
        if changes:
            frozen, note = False, f"the model changes {changes[0]} in inference"
    module = tf.Module()
    # The tables of lookup layers are no constants: tracking their layers saves them.
    module.lookups = [part for part in sublayers(served) if hasattr(part, "save_assets")]
    if not frozen:
        module.weights = [v.value for v in served.variables]
        function = _trace(lambda inputs: served(inputs, training=False), graph)
    # Custom gradients, that of silu for one, cannot be saved from a graph and serve nothing here.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(directory), {"serving_default": function}, options)
    return frozen, note


def _trace(call: Callable[[Any], Any], graph: Graph) -> Any:
    """Returns `call` as a TensorFlow graph that takes and returns tensors by name."""
    import tensorflow as tf

    names = input_names(graph)
    specs = {
        name: tf.TensorSpec(t.shape, t.dtype, name)
        for name, t in zip(names, graph.inputs, strict=True)
    }

    def serving_default(**named: Any) -> dict[str, Any]:
        flat = [named[name] for name in names]
        results = call(keras.tree.pack_sequence_as(graph.input_structure, flat))
        return dict(zip(output_names(graph), keras.tree.flatten(results), strict=True))

    return tf.function(serving_default, autograph=False).get_concrete_function(**specs)


def _frozen_function(served: Any, graph: Graph) -> tuple[Any, list[str]]:
    """Returns the graph with constants for weights, and what the model would change in them."""
    import tensorflow as tf

    trainable, others = (
        [(keras.ops.convert_to_numpy(v), v.dtype) for v in variables]
        for variables in (served.trainable_variables, served.non_trainable_variables)
    )
    changes: list[str] = []

    def call(inputs: Any) -> Any:
        before = [tf.constant(*value) for value in others]
        outputs, after = served.stateless_call(
            [tf.constant(*value) for value in trainable], before, inputs, training=False
        )
        triples = zip(served.non_trainable_variables, before, after, strict=True)
        changes.extend(v.path for v, old, new in triples if old is not new)
        return outputs

    return _trace(call, graph), changes


def _too_large(model: Any) -> str | None:
    import tensorflow as tf

    size = sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in model.variables)
    if size > _LARGEST_GRAPH:
        return f"{size / 1e9:.1f} GB of weights do not fit into a graph, which holds 2 GB"
    return None


def _checked_report(
    directory: Path,
    final: Path,
    graph: Graph,
    inputs: Any,
    expected: list[np.ndarray],
    tolerance: float,
    **fields: Any,
) -> ExportReport:
    """Loads the SavedModel again and compares it with the model's outputs `expected`."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(directory))
    serve = loaded.signatures["serving_default"]
    named = dict(zip(input_names(graph), keras.tree.flatten(inputs), strict=True))
    results = serve(**named)
    names = output_names(graph)
    differences = {
        name: _difference(results[name].numpy(), want)
        for name, want in zip(names, expected, strict=True)
    }
    worst = max(differences, key=lambda name: differences[name])
    # A NaN compares as neither larger nor smaller.
    if not differences[worst] <= tolerance:
        raise ValueError(
            f'{_NAME} loaded the SavedModel of "{graph.model.name}" again, and its output '
            f'"{worst}" differs from the model\'s by {differences[worst]:.2g} of the largest '
            f"value; allowed is {tolerance:.2g}. Nothing was written. Find the cause with "
            "fold=False, then freeze=False, compare on real data with sample=, or pass a larger "
            "tolerance if the model amplifies rounding errors."
        )
    definition = serve.graph.as_graph_def()
    functions = definition.library.function
    return ExportReport(
        model=graph.model.name,
        path=str(final),
        version=int(final.name),
        inputs={n: _described(t) for n, t in zip(named, graph.inputs, strict=True)},
        outputs={n: _described(t) for n, t in zip(names, graph.outputs, strict=True)},
        largest_difference=differences[worst],
        tolerance=tolerance,
        num_nodes=len(definition.node) + sum(len(f.node_def) for f in functions),
        size_bytes=sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()),
        **fields,
    )


def _described(tensor: Any) -> tuple[str, tuple[int | None, ...]]:
    return keras.backend.standardize_dtype(tensor.dtype), tuple(tensor.shape)


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    """Returns max |got − want| / max |want|; infinite where the values cannot be subtracted."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return np.inf
    if got.dtype.kind in "OSUb":
        return 0.0 if np.array_equal(got, want) else np.inf
    got, want = got.astype("float64"), want.astype("float64")
    return float(np.max(np.abs(got - want)) / max(np.max(np.abs(want)), np.finfo("float32").tiny))
