"""What the commands `kerastools diagnose`, `fold`, `export` and `search` do.

Their options are in the module `kerastools_cli`, which takes no import of Keras to print them.
"""

import argparse
import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core.notices import notify
from kerastools._core.sample_inputs import NoSampleError
from kerastools_cli import main

__all__ = ["diagnose", "export", "fold", "main", "search"]

_FOUND_SOMETHING = 3
# Of the file that --sample names; more would only take longer.
_MOST_ROWS = 32


def _load(options: argparse.Namespace, compiled: bool = False) -> Any:
    path = options.model
    for name in options.imports:
        _module(name)
    if not path.exists():
        raise ValueError(f"there is no file {str(path)!r}. Pass a model saved by model.save().")
    return keras.models.load_model(path, compile=compiled)


def diagnose(options: argparse.Namespace) -> int:
    """Runs `kerastools diagnose`."""
    from kerastools.diagnosis import diagnose as diagnose_model

    x, y = _data(options.data)
    model = _load(options, compiled=options.loss is None)
    diagnosis = diagnose_model(model, x, y, options.loss, options.batch_size)
    print(json.dumps(diagnosis.to_dict(), indent=2) if options.json else diagnosis)
    return _FOUND_SOMETHING if diagnosis.findings else 0


def search(options: argparse.Namespace) -> int:
    """Runs `kerastools search`."""
    from kerastools.search import tune  # imports keras_tuner

    if options.model is not None and options.model.suffix != ".keras":
        raise ValueError(f"--model must end in .keras. Received {str(options.model)!r}.")
    fit = {"epochs": options.epochs, "batch_size": options.batch_size}
    x, y = _data(options.data)
    if isinstance(x, dict) and {"x", "x_val", "y_val"} <= set(x):
        fit["validation_data"] = (x.pop("x_val"), x.pop("y_val"))
        x = x["x"]
    report = tune(
        _builder(options.builder),
        x,
        y,
        objective=options.objective,
        max_trials=options.trials,
        population=options.population,
        seed=options.seed,
        directory=options.directory,
        storage=options.storage,
        **fit,
    )
    print(f"\n{report}\n\n{report.snippet()}")
    if options.json is not None:
        options.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    if options.picture is not None:
        report.plot(options.picture)
    if options.tensorboard is not None:
        report.write_tensorboard(options.tensorboard)
    if options.model is not None:
        if report.model is None:
            raise ValueError("the best model is on the machine that trained it; nothing was saved.")
        report.model.save(options.model)
    return 0


def _builder(name: str) -> Any:
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"BUILDER must be module:function. Received {name!r}.")
    found = _module(module)
    if not hasattr(found, function):
        raise ValueError(f"module {module!r} ({found.__file__}) has no {function!r}.")
    return getattr(found, function)


def _module(name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no module {name!r} here or installed: {error}.") from error
    finally:
        sys.path.remove(os.getcwd())


def _data(path: Path) -> tuple[Any, np.ndarray]:
    try:
        with np.load(path) as arrays:
            data = dict(arrays) if isinstance(arrays, np.lib.npyio.NpzFile) else {}
    except ValueError:  # NumPy's message advises to unpickle what is no array
        data = {}
    if "y" not in data or len(data) < 2:
        raise ValueError(
            f"{str(path)!r} must be an .npz file with the inputs as x and the targets as y, as "
            f"numpy.savez(file, x=x, y=y) writes it. It holds {sorted(data) or 'no named arrays'}."
        )
    y = data.pop("y")
    return data.get("x", data) if len(data) == 1 else data, y


def _sample(options: argparse.Namespace, model: Any) -> Any:
    """Returns the first rows of the file that --sample names, as the model takes them."""
    if options.sample is None:
        return None
    loaded = np.load(options.sample)
    arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    arrays = {name: a[:_MOST_ROWS] for name, a in arrays.items() if name != "y" or len(arrays) == 1}
    if len(arrays) == 1 or "x" in arrays:
        return arrays.get("x", next(iter(arrays.values())))
    return arrays if isinstance(model.input, dict) else [arrays[t.name] for t in model.inputs]


def fold(options: argparse.Namespace) -> int:
    """Runs `kerastools fold`."""
    from kerastools.export._reference import Reference
    from kerastools.folding import fold_batch_norm

    if options.output.suffix != ".keras":
        raise ValueError(f"OUTPUT must end in .keras. Received {str(options.output)!r}.")
    if not options.output.parent.is_dir():
        raise ValueError(f"there is no directory {str(options.output.parent)!r} to write to.")
    if options.output.exists() and not options.overwrite:
        raise ValueError(f"{str(options.output)!r} exists. Pass --overwrite to replace it.")
    model = _load(options)
    folded, report = fold_batch_norm(model, return_report=True)
    try:
        reference = Reference(model, _sample(options, model), "kerastools fold")
    except NoSampleError as error:
        notify(f"the outputs were not compared; pass --sample FILE: {error}")
    else:
        report = dataclasses.replace(report, largest_difference=reference.difference(folded))
    # Whole or not at all, also where OUTPUT is MODEL.
    part = options.output.with_name(f".{options.output.stem}.{os.getpid()}.keras")
    try:
        folded.save(part)
        part.replace(options.output)
    finally:
        part.unlink(missing_ok=True)
    print(report)
    return 0


def export(options: argparse.Namespace) -> int:
    """Runs `kerastools export`."""
    from kerastools.export import export_savedmodel  # needs TensorFlow

    model = _load(options)
    report = export_savedmodel(
        model,
        options.directory,
        fold=not options.no_fold,
        freeze=not options.no_freeze,
        version=options.version,
        overwrite=options.overwrite,
        sample=_sample(options, model),
        tolerance=options.tolerance,
        warm_up=options.warm_up,
        dtype=options.dtype,
        latency=options.latency,
    )
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
