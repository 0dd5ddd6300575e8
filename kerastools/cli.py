"""The command line: `kerastools diagnose`, `fold`, `export` for saved models, and `search`."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools.diagnosis import diagnose
from kerastools.folding import fold_batch_norm

_FOUND_SOMETHING = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0: done; `diagnose` found nothing wrong. 1: it could not be done, the reason is on the error
    stream and nothing was written. 2: the command itself is wrong, as `argparse` says. 3:
    `diagnose` found something. 130: stopped by Ctrl-C; what a search has finished is kept.

    Args:
        arguments: The words after `kerastools`; by default those of this process.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print(f"kerastools {options.command}: stopped.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(f"kerastools {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kerastools",
        description="Find out why a Keras model trains badly, search its hyperparameters, make a "
        "trained one faster to serve.",
        epilog="Exit codes: 0 done, 1 not possible (nothing is written), 2 wrong command, "
        "3 diagnose found something.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    diagnosis = commands.add_parser(
        "diagnose",
        help="say what keeps a model from training well",
        description="Reads MODEL, runs one batch of DATA forward and back, and prints what is "
        "wrong: signals and gradients that vanish or explode, dead units and more, each with what "
        "mends it. Changes nothing.",
        epilog="Exit codes: 0 nothing wrong, 1 not possible, 2 wrong command, 3 something found. "
        "Example: kerastools diagnose untrained.keras data.npz "
        "--loss sparse_categorical_crossentropy",
    )
    _model_argument(diagnosis)
    diagnosis.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        help="an .npz file, as numpy.savez(file, x=x, y=y) writes it; a model of several inputs "
        "takes one array for each, by the input's name, and y",
    )
    diagnosis.add_argument("--loss", help="by default the one that MODEL was compiled with")
    diagnosis.add_argument(
        "--batch-size", type=int, default=32, help="rows of a batch in training; by default 32"
    )
    diagnosis.add_argument("--json", action="store_true", help="print JSON instead of a table")
    diagnosis.set_defaults(run=_diagnose)

    fold = commands.add_parser(
        "fold",
        help="remove batch normalisation without changing what a model computes",
        description="Reads MODEL, folds its batch normalisations into the layers beside them, and "
        "writes the result, which computes the same in inference, to OUTPUT. Prints a line per "
        "batch normalisation: where it went, or why it stayed.",
        epilog="Example: kerastools fold trained.keras folded.keras",
    )
    _model_argument(fold)
    fold.add_argument("output", metavar="OUTPUT", type=Path, help="where to write, a .keras file")
    fold.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    fold.set_defaults(run=_fold)

    export = commands.add_parser(
        "export",
        help="write a model as a SavedModel for TensorFlow Serving",
        description="Reads MODEL, folds its batch normalisations, puts its weights into the graph, "
        "writes DIRECTORY/<version>/, loads that again and compares it with the model. Prints what "
        "it wrote and how far the outputs are apart. Needs TensorFlow.",
        epilog="Example: kerastools export trained.keras /models/digits",
    )
    _model_argument(export)
    export.add_argument("directory", metavar="DIRECTORY", type=Path, help="holds all versions")
    export.add_argument("--version", type=int, help="a number; by default the next one")
    export.add_argument("--overwrite", action="store_true", help="replace an existing version")
    export.add_argument("--no-fold", action="store_true", help="keep batch normalisations")
    export.add_argument("--no-freeze", action="store_true", help="keep weights as variables")
    export.add_argument(
        "--tolerance",
        type=float,
        help="largest difference allowed, relative to the largest output; by default 0.005",
    )
    export.add_argument(
        "--warm-up",
        type=int,
        nargs="+",
        default=[],
        metavar="BATCH",
        help="batch sizes that TensorFlow Serving tries when it loads the model, such as 1 32",
    )
    export.add_argument(
        "--dtype",
        choices=["bfloat16"],
        help="compute in it: faster on some processors, but not exact; the error is printed",
    )
    export.add_argument(
        "--latency",
        type=int,
        nargs="+",
        default=[],
        metavar="BATCH",
        help="batch sizes at which to time it against model.export, such as 1 32; takes a while",
    )
    export.set_defaults(run=_export)

    search = commands.add_parser(
        "search",
        help="find dropout rate, learning rate, momentum and the like",
        description="Searches the hyperparameters that BUILDER, a function build(hp), asks for, or "
        "the numbers of the model that it returns where it takes none. Prints the trials as they "
        "end, then the best ones. Ctrl-C keeps what is finished; the same command goes on.",
        epilog="On several machines run the same command on each, with --storage and the same "
        "--seed. Example: kerastools search my_model:build data.npz --epochs 20 --trials 50 "
        "--picture search.png",
    )
    search.add_argument(
        "builder", metavar="BUILDER", help="module:function, from the current folder or installed"
    )
    search.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        help="an .npz file with x and y, and x_val and y_val if there are any; else a fifth of the "
        "rows is held out",
    )
    search.add_argument("--objective", default="val_loss", help="by default val_loss")
    search.add_argument("--trials", type=int, default=24, help="in all; by default 24")
    search.add_argument("--epochs", type=int, default=10, help="of each trial; by default 10")
    search.add_argument("--batch-size", type=int, default=32, help="by default 32")
    search.add_argument(
        "--population", type=int, default=8, help="trials trained together; by default 8"
    )
    search.add_argument("--seed", type=int, default=0, help="by default 0")
    search.add_argument(
        "--directory", type=Path, default=Path("search"), help="its files; by default search/"
    )
    search.add_argument(
        "--storage", help="a database that processes share, such as postgresql://user@host/search"
    )
    search.add_argument("--json", type=Path, metavar="FILE", help="write all trials there")
    search.add_argument("--picture", type=Path, metavar="FILE", help="draw the search there")
    search.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="write HParams there")
    search.add_argument("--model", type=Path, metavar="FILE", help="save the best model there")
    search.set_defaults(run=_search)
    return parser


def _model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="a saved model, a .keras or .h5 file"
    )


def _load(path: Path, compiled: bool = False) -> Any:
    if not path.exists():
        raise ValueError(f"there is no file {str(path)!r}. Pass a model saved by model.save().")
    return keras.models.load_model(path, compile=compiled)


def _diagnose(options: argparse.Namespace) -> int:
    x, y = _data(options.data)
    model = _load(options.model, compiled=options.loss is None)
    diagnosis = diagnose(model, x, y, options.loss, options.batch_size)
    print(json.dumps(diagnosis.to_dict(), indent=2) if options.json else diagnosis)
    return _FOUND_SOMETHING if diagnosis.findings else 0


def _search(options: argparse.Namespace) -> int:
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
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no module {module!r} here or installed: {error}.") from error
    finally:
        sys.path.remove(os.getcwd())
    if not hasattr(found, function):
        raise ValueError(f"module {module!r} ({found.__file__}) has no {function!r}.")
    return getattr(found, function)


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


def _fold(options: argparse.Namespace) -> int:
    if options.output.suffix != ".keras":
        raise ValueError(f"OUTPUT must end in .keras. Received {str(options.output)!r}.")
    if not options.output.parent.is_dir():
        raise ValueError(f"there is no directory {str(options.output.parent)!r} to write to.")
    if options.output.exists() and not options.overwrite:
        raise ValueError(f"{str(options.output)!r} exists. Pass --overwrite to replace it.")
    model = _load(options.model)
    folded, report = fold_batch_norm(model, return_report=True, sample="random")
    # Whole or not at all, also where OUTPUT is MODEL.
    part = options.output.with_name(f".{options.output.stem}.{os.getpid()}.keras")
    try:
        folded.save(part)
        part.replace(options.output)
    finally:
        part.unlink(missing_ok=True)
    print(report)
    return 0


def _export(options: argparse.Namespace) -> int:
    from kerastools.export import export_savedmodel  # needs TensorFlow

    report = export_savedmodel(
        _load(options.model),
        options.directory,
        fold=not options.no_fold,
        freeze=not options.no_freeze,
        version=options.version,
        overwrite=options.overwrite,
        tolerance=options.tolerance,
        warm_up=options.warm_up,
        dtype=options.dtype,
        latency=options.latency,
    )
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
