"""Writing a model as a SavedModel that serves fast and is known to be right."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kerastools._core.checks import require_built
from kerastools._core.graph.calls import Graph, has_graph
from kerastools._core.notices import notify
from kerastools.export._chain import chained
from kerastools.export._comparison import as_arrays, default_tolerance, largest_difference
from kerastools.export._endpoint import Endpoint
from kerastools.export._export_report import Described, ExportReport
from kerastools.export._graph_writer import write_graph
from kerastools.export._latency import against_plain, num_nodes_of, size_of
from kerastools.export._reference import Reference
from kerastools.export._staging import appears_at_once, one_writer
from kerastools.export._warm_up import write_warm_up
from kerastools.export._ways import Way, first_that_works, prepare, ways

_NAME = "export_savedmodel"
_MAIN = "serving_default"


def export_savedmodel(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    fold: bool = True,
    freeze: bool = True,
    dtype: str | None = None,
    preprocessing: keras.Model | None = None,
    postprocessing: Callable[[Any], Any] | None = None,
    output_names: Sequence[str] | None = None,
    signatures: Mapping[str, keras.Model | str] | None = None,
    version: int | None = None,
    overwrite: bool = False,
    sample: Any = None,
    tolerance: float | None = None,
    warm_up: Sequence[int] = (),
    latency: Sequence[int] = (),
) -> ExportReport:
    """Writes `model` to `path/<version>/` as a SavedModel for inference, and proves it equal.

    Use it in place of `model.export(path)` to serve from TensorFlow Serving or any program that has
    TensorFlow; the reader needs neither Keras nor kerastools. Batch normalizations are folded away
    (`fold_batch_norm`), the weights stand in the graph as constants, which lets TensorFlow fuse
    and precompute more, and every weight is stored once, where Keras stores it twice.

    The signature `serving_default` takes and returns tensors by name: inputs are called after the
    keys of the input dictionary or the input layers, outputs after the keys of the output
    dictionary or the layers that make them. The batch may have any size, unless the model fixes it.
    The endpoint `serve` takes and returns what the model does, as that of `model.export`:
    `keras.layers.TFSMLayer(path)` and `tf.saved_model.load(path).serve(x)` read it.

    What Keras exports, this exports. A model that cannot be folded (a layer cannot be copied), or
    whose weights cannot be constants (it changes its own state in inference), is written without
    that, in the end by `model.export` itself. A `KerastoolsNotice` and the report say why.

    To take raw data or return other things than the model does, put that into the graph too:

        images = keras.Sequential([
            keras.Input((None, None, 3), dtype="uint8", name="pixels"),
            keras.layers.Resizing(96, 96), keras.layers.Rescaling(1 / 255),
        ])
        export_savedmodel(model, path, preprocessing=images, postprocessing=keras.ops.softmax)

    After writing, the SavedModel is loaded again and compared with `model` on `sample`. Only then
    does it appear under its name, in one step: killed before, it leaves no new version, and what it
    leaves next to the versions the next export removes. Two exports to one `path` wait for each
    other. (Replacing a version is one step on Linux; elsewhere, a process killed between two
    renames leaves no version of that number until the next export brings the old one back.)

    Args:
        model: A built model, on the TensorFlow backend. It is not changed.
        path: Directory of all versions, made if it is missing; or that of one version, such as
            `"served/3"`, if its name is a number and `version` is not given.
        fold: Whether to fold batch normalizations first. This also merges zero padding into the
            convolution after it, where that pads alike, and spells silu as x · σ(x), which
            TensorFlow fuses.
        freeze: Whether to put the weights into the graph as constants.
        dtype: `"bfloat16"` computes all but the output layers in bfloat16: faster on processors
            that have instructions for it, slower on others, and not exact; the report prints how
            far off. By default each layer's own.
        preprocessing: A built model from what clients send to the inputs of `model`.
        postprocessing: A function or layer from the outputs of `model` to what clients receive.
            Return a dictionary to name it; by default it has the names of the outputs of `model`.
        output_names: Names for the outputs in `serving_default`; `["output_0"]` is what Keras calls
            a single one.
        signatures: Further signatures by name, each with weights of its own where they are
            constants: the name of a layer for what it returns, behind `preprocessing`; or a model,
            as it is, such as `keras.Model(model.inputs, model.get_layer("embedding").output)`.
        version: Number of this version, 1 or more. By default the next one in `path`.
        overwrite: Whether to replace an existing version.
        sample: Inputs of a few rows for the comparison, as clients send them. By default random:
            normal numbers, with the mean and variance of a normalization at the input (numbers
            between 0 and 1 where those give NaN), 0 and 1 for integers (0 to 255 for uint8), and
            the first size of 32, 64 and so on to 1024, and 1, that works where sizes are open.
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
        ValueError: If the backend is not TensorFlow, the model is not built, the version is taken
            or not a number, the preprocessing, the sample, a name or a batch size does not fit, or
            Keras cannot export the model either. Nothing is left behind.

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
    require_built(model, _NAME)
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
    root, version = _root_and_version(Path(path), version)
    _checked_version(root, version, overwrite)
    models = {_MAIN: chained(model, preprocessing, postprocessing, _NAME)}
    models |= _further(model, preprocessing, signatures or {})
    # A signature that is the name of a layer takes what the main one takes.
    alike = {_MAIN, *(name for name, what in (signatures or {}).items() if isinstance(what, str))}
    cases = {
        name: Reference(m, sample if name in alike else None, _NAME) for name, m in models.items()
    }
    main = cases[_MAIN]
    main.name_outputs(output_names, _NAME)
    _check_batch_sizes(main.endpoint, warm_up=warm_up, latency=latency)
    asked = Way(fold, dtype is not None, freeze)
    candidates = ways(asked, keras_too=not signatures and output_names is None)
    with one_writer(root):
        # Again: another process may have written one meanwhile.
        version = _checked_version(root, version, overwrite)
        with appears_at_once(root, version) as directory:
            try:
                way, (fields, random), note = first_that_works(
                    candidates, directory, lambda way: _write(cases, way, directory, tolerance)
                )
            except ValueError as error:
                raise ValueError(
                    f'{_NAME} could not write a SavedModel that computes what model "{model.name}" '
                    f"does: {error}. Nothing was written. Compare on real data with sample=, or "
                    "pass a larger tolerance if the model amplifies rounding errors."
                ) from error
            if warm_up:
                # Keras's own export may have other names, but the same order.
                requests = dict(zip(fields["inputs"], main.named.values(), strict=True))
                write_warm_up(directory, root.resolve().name, requests, warm_up)
            timed, untimed = against_plain(directory, models[_MAIN], main.arguments, latency)
            unequal = f"not compared, because it is random: {', '.join(random)}" if random else None
            note = "; ".join(filter(None, (note, unequal, untimed))) or None
            report = ExportReport(
                model=model.name,
                path=str(root / str(version)),
                version=version,
                frozen=way.freeze,
                note=note,
                dtype=dtype if way.half else None,
                size_bytes=size_of(directory),
                **fields,
                **timed,
            )
    if note:
        notify(f'{_NAME} wrote model "{model.name}" otherwise than asked: {note}')
    return report


def _write(
    cases: dict[str, Reference], way: Way, directory: Path, tolerance: float | None
) -> tuple[dict[str, Any], list[str]]:
    """Writes in one way, loads that again and compares it with the models.

    Returns fields of the report, and which outputs could not be compared because they are random.
    """
    import tensorflow as tf

    if way.own:
        served = {name: prepare(case.model, way) for name, case in cases.items()}
        models = {name: made for name, (made, _) in served.items()}
        write_graph(models, cases, directory, way.freeze)
    else:
        served = {_MAIN: (cases[_MAIN].model, None)}
        cases[_MAIN].model.export(directory, format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(directory))
    outputs, worst, random = {}, 0.0, []
    for name, (made, _) in served.items():
        case, signature = cases[name], loaded.signatures[name]
        limit = default_tolerance(made) if tolerance is None else tolerance
        got = (
            signature(**case.named)
            if way.own
            else case.endpoint.named(loaded.serve(*case.arguments))
        )
        difference, unequal = largest_difference(as_arrays(got), case.want, limit, case.again)
        if way.own:
            case.check_before_activations(made, limit)
        worst = max(worst, difference)
        random += unequal
        outputs[name] = _described(signature.structured_outputs, list(case.want))
    main, inputs = loaded.signatures[_MAIN], list(cases[_MAIN].named)
    fields = {
        "inputs": _described(main.structured_input_signature[1], inputs),
        "outputs": outputs.pop(_MAIN),
        "signatures": outputs,
        "fold": served[_MAIN][1],
        "largest_difference": worst,
        "tolerance": limit,
        "num_nodes": num_nodes_of(main),
    }
    return fields, random


def _further(
    model: Any, preprocessing: Any, signatures: Mapping[str, keras.Model | str]
) -> dict[str, Any]:
    """Returns the models of further signatures by name."""
    models = {}
    for name, what in signatures.items():
        if not name.isidentifier() or name in (_MAIN, "serve"):
            raise ValueError(
                f"{_NAME} needs signatures to be named by identifiers other than {_MAIN} and "
                f"serve. Received {name!r}."
            )
        if not isinstance(what, str):
            models[name] = what
            continue
        calls = Graph(model).calls if has_graph(model) else []
        found = [call for call in calls if call.operation.name == what]
        if not found:
            raise ValueError(
                f"{_NAME} needs a signature to be a keras.Model or the name of a layer of model "
                f'"{model.name}". Received {name}={what!r}. Its layers are '
                f"{', '.join(dict.fromkeys(call.operation.name for call in calls)) or 'unknown'}."
            )
        structure = Graph(model).input_structure
        outputs = found[-1].outputs
        inner = keras.Model(structure, outputs[0] if len(outputs) == 1 else list(outputs))
        models[name] = chained(inner, preprocessing, None, _NAME)
    return models


def _root_and_version(path: Path, version: int | None) -> tuple[Path, int | None]:
    """Returns the directory of all versions: `path`, or what is above if `path` is a version."""
    holds_versions = path.is_dir() and any(p.name.isdecimal() for p in path.iterdir())
    if version is None and path.name.isdecimal() and int(path.name) and not holds_versions:
        return path.parent, int(path.name)
    return path, version


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


def _check_batch_sizes(endpoint: Endpoint, **arguments: Sequence[int]) -> None:
    fixed = {t.shape[0] for t in endpoint.tensors} - {None}
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


def _described(specs: dict[str, Any], names: list[str]) -> Described:
    """Returns dtype and shape of each tensor of a signature, in the order of `names` if it can."""
    order = names if set(names) == set(specs) else list(specs)
    return {name: (specs[name].dtype.name, tuple(specs[name].shape)) for name in order}
