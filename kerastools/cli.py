"""The command line: `kerastools fold` and `kerastools export`, for models saved as `.keras`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kerastools.folding import fold_batch_norm


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0: done. 1: it could not be done, the reason is on the error stream and nothing was written.
    2: the command itself is wrong, as `argparse` says.

    Args:
        arguments: The words after `kerastools`; by default those of this process.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"kerastools {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kerastools",
        description="Make trained Keras models smaller and faster to serve.",
        epilog="Exit codes: 0 done, 1 not possible (nothing is written), 2 wrong command.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

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
    export.set_defaults(run=_export)
    return parser


def _model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a trained model, a .keras file")


def _load(path: Path) -> Any:
    if not path.exists():
        raise ValueError(f"there is no file {str(path)!r}. Pass a model saved by model.save().")
    return keras.models.load_model(path, compile=False)


def _fold(options: argparse.Namespace) -> None:
    if options.output.suffix != ".keras":
        raise ValueError(f"OUTPUT must end in .keras. Received {str(options.output)!r}.")
    if options.output.exists() and not options.overwrite:
        raise ValueError(f"{str(options.output)!r} exists. Pass --overwrite to replace it.")
    model = _load(options.model)
    folded, report = fold_batch_norm(model, return_report=True)
    # Whole or not at all, also where OUTPUT is MODEL.
    part = options.output.with_name(f".{options.output.stem}.{os.getpid()}.keras")
    try:
        folded.save(part)
        part.replace(options.output)
    finally:
        part.unlink(missing_ok=True)
    print(report)


def _export(options: argparse.Namespace) -> None:
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
    )
    print(report)


if __name__ == "__main__":
    sys.exit(main())
