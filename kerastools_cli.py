"""The command `kerastools`: what its options are, and how it ends.

It stands outside of the package, because importing the package imports Keras and its backend:
`--help` does not need them, and TensorFlow is to be asked for silence before that.
"""

import argparse
import importlib.metadata
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0: done; `diagnose` found nothing wrong. 1: it could not be done, the reason is on the error
    stream in one line, and nothing was written. 2: the command itself is wrong, as `argparse` says.
    3: `diagnose` found something. 130: stopped by Ctrl-C; what a search has finished is kept.

    Args:
        arguments: The words after `kerastools`; by default those of this process.
    """
    options = _parser().parse_args(arguments)

    def say(text: Any) -> None:
        print(f"kerastools {options.command}: {' '.join(str(text).split())}", file=sys.stderr)

    try:
        with warnings.catch_warnings():
            with _silence():
                from kerastools import KerastoolsNotice, cli
            for name in ("absl", "tensorflow"):
                logging.getLogger(name).setLevel(logging.ERROR)
            show = warnings.showwarning

            def show_in_one_line(message: Any, category: Any, *place: Any, **kwargs: Any) -> None:
                if issubclass(category, KerastoolsNotice):
                    say(message)
                else:
                    show(message, category, *place, **kwargs)

            warnings.showwarning = show_in_one_line
            return getattr(cli, options.command)(options)
    except KeyboardInterrupt:
        say("stopped.")
        return 130
    except Exception as error:  # Whatever Keras, TensorFlow or the model's own code raises.
        ours = isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError)
        say(error if ours and str(error) else f"{type(error).__name__}: {error}")
        return 1


@contextmanager
def _silence() -> Iterator[None]:
    """Throws away what is written to the error stream while Keras and its backend are imported.

    TensorFlow's lines about the processor say nothing about the model, and its settings do not keep
    all of them away. What goes wrong is an exception. Variables of the environment that ask for the
    lines are heeded.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    stream, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stream, 2)
        os.close(stream)
        os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kerastools",
        description="Find out why a Keras model trains badly, search its hyperparameters, make a "
        "trained one faster to serve.",
        epilog="Exit codes: 0 done, 1 not possible (nothing is written), 2 wrong command, "
        "3 diagnose found something.",
    )
    parser.add_argument(
        "--version", action="version", version=f"kerastools {_version()}", help="print it and exit"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    diagnosis = commands.add_parser(
        "diagnose",
        help="say what keeps a model from training well",
        description="Reads MODEL, runs one batch of DATA forward and back, and prints what is "
        "wrong: signals and gradients that vanish or explode, dead units and more, each with what "
        "fixes it. Changes nothing.",
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

    fold = commands.add_parser(
        "fold",
        help="remove batch normalization without changing what a model computes",
        description="Reads MODEL, folds its batch normalizations into the layers next to them, and "
        "writes the result, which computes the same in inference, to OUTPUT. Prints a line per "
        "batch normalization: where it went, or why it stayed.",
        epilog="Example: kerastools fold trained.keras folded.keras",
    )
    _model_argument(fold)
    fold.add_argument("output", metavar="OUTPUT", type=Path, help="where to write, a .keras file")
    fold.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    _sample_argument(fold)

    export = commands.add_parser(
        "export",
        help="write a model as a SavedModel for TensorFlow Serving",
        description="Reads MODEL, folds its batch normalizations, puts its weights into the graph, "
        "writes DIRECTORY/<version>/, loads that again and compares it with the model. Prints what "
        "it wrote and how far the outputs are apart. Needs TensorFlow.",
        epilog="Example: kerastools export trained.keras /models/digits",
    )
    _model_argument(export)
    export.add_argument("directory", metavar="DIRECTORY", type=Path, help="holds all versions")
    _sample_argument(export)
    export.add_argument("--version", type=int, help="a number; by default the next one")
    export.add_argument("--overwrite", action="store_true", help="replace an existing version")
    export.add_argument("--no-fold", action="store_true", help="keep batch normalizations")
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
    return parser


def _model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="a saved model, a .keras or .h5 file"
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import it first, from the current folder or installed: for layers of your own or of "
        "a library; may be given several times",
    )


def _sample_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sample",
        type=Path,
        metavar="FILE",
        help="inputs to compare the outputs on, an .npy or .npz file like DATA of diagnose; by "
        "default random ones",
    )


def _version() -> str:
    try:
        return importlib.metadata.version("kerastools")
    except importlib.metadata.PackageNotFoundError:  # Run from a folder with its source.
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
