"""Searches dropout rate, momentum γ and β₁/β₂ of a deep dense net on scikit-learn's digits.

    python tuning/digits.py                  # 24 trials
    python tuning/digits.py --trials 60      # goes on from the 24: finished trials are kept

Ctrl-C stops it; the same command goes on with the trial that was interrupted. Writes `results.json`
and `search.png` beside the trials. Six trials of 10 epochs at --depth 8 reach 0.983.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import keras_tuner
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from kerastools.search import DeepDense, PopulationTuner

BATCH = 32


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns standardised digits: 1,347 rows to train on, and 450 to test.

    The first 1,056 of the training rows (33 whole batches) are what a search trains on, the other
    291 what it is judged by; the test rows are kept out of it.
    """
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=450, random_state=0)
    mean, deviation = x_train.mean(), x_train.std()
    x_train = ((x_train - mean) / deviation).astype("float32")
    x_test = ((x_test - mean) / deviation).astype("float32")
    return {
        "train": (x_train, y_train),
        "search": (x_train[: 33 * BATCH], y_train[: 33 * BATCH]),
        "validation": (x_train[33 * BATCH :], y_train[33 * BATCH :]),
        "test": (x_test, y_test),
    }


class Search(PopulationTuner):
    """A random search, trial after trial, that says after each one where it stands."""

    def __init__(self, *args, **kwargs):
        self._started = time.perf_counter()
        self._run_here = 0
        super().__init__(*args, population=1, **kwargs)

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        self._run_here += 1
        done, total = len(self.oracle.end_order), self.oracle.max_trials
        best = self.oracle.get_best_trials(1)
        seconds = (time.perf_counter() - self._started) / self._run_here * (total - done)
        score = "failed" if trial.score is None else f"{trial.score:.4f}"
        print(
            f"  trial {done:>3}/{total}  {self.oracle.objective.name} {score}"
            f"  best {best[0].score:.4f}  about {seconds:.0f} s left"
            if best
            else f"  trial {done:>3}/{total}  {score}",
            flush=True,
        )


def search(
    directory: Path, trials: int, epochs: int, seed: int = 0, depth: int = 10
) -> keras_tuner.Tuner:
    """Runs, or goes on with, the search in `directory` and returns its tuner."""
    data = digits()
    tuner = Search(
        DeepDense(num_features=64, num_classes=10, depth=depth, seed=seed),
        objective="val_accuracy",
        max_trials=trials,
        seed=seed,
        directory=str(directory),
        project_name="digits",
    )
    done = len(tuner.oracle.end_order)
    if done:
        print(f"  {done} trials are finished already in {directory}; delete it to start anew")
    tuner.search(
        *data["search"],
        validation_data=data["validation"],
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
    )
    return tuner


def results(tuner: keras_tuner.Tuner) -> list[dict]:
    """Returns score and hyperparameters of every finished trial, the best first."""
    trials = [
        t for t in tuner.oracle.get_best_trials(tuner.oracle.max_trials) if t.score is not None
    ]
    return [{"score": t.score, **_readable(t.hyperparameters.values)} for t in trials]


def _readable(values: dict) -> dict:
    """Returns the values with γ and β in place of their complements, of the optimizer chosen."""
    other = {"sgd": ("adam", "beta"), "adam": ("sgd", "momentum")}[values["optimizer"]]
    return {
        name.removeprefix("1 - "): round(1 - value, 6) if name.startswith("1 - ") else value
        for name, value in values.items()
        if not name.removeprefix("1 - ").startswith(other)
    }


def plot(rows: list[dict], path: Path) -> None:
    """Draws the score over each hyperparameter, one panel each."""
    import matplotlib.pyplot as plt

    panels = {
        "dropout": ("dropout rate p", (-0.02, 0.52)),
        "momentum": ("momentum γ (sgd)", (0.45, 0.992)),
        "beta_1": ("β₁ (adam)", (0.45, 0.983)),
        "beta_2": ("β₂ (adam)", (0.88, 0.99993)),
        "sgd_learning_rate": ("learning rate (sgd)", (8e-4, 0.4)),
        "adam_learning_rate": ("learning rate (adam)", (8e-5, 0.04)),
    }
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey=True, layout="constrained")
    for axis, (name, (label, limits)) in zip(axes.flat, panels.items(), strict=True):
        for optimizer, colour in {"sgd": "tab:blue", "adam": "tab:orange"}.items():
            points = [
                (row[name], row["score"])
                for row in rows
                if name in row and row["optimizer"] == optimizer
            ]
            if points:
                axis.scatter(*zip(*points, strict=True), color=colour, label=optimizer, alpha=0.8)
        if name in rows[0]:
            axis.scatter(
                rows[0][name], rows[0]["score"], s=220, marker="*", color="black", zorder=3
            )
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        if name.endswith("learning_rate"):
            axis.set_xscale("log")
        elif name != "dropout":
            axis.set_xscale("function", functions=(_decades_to_one, lambda u: 1 - 10.0**-u))
            low, high = limits
            ticks = [g for g in (0.5, 0.8, 0.9, 0.96, 0.99, 0.999, 0.9999) if low < g < high]
            axis.set_xticks(ticks, [f"{g:g}" for g in ticks])
        axis.set_xlim(*limits)
    axes[0, 0].legend(title="optimizer")
    for axis in axes[:, 0]:
        axis.set_ylabel("validation accuracy")
    figure.suptitle(f"{len(rows)} trials; the star is the best")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _decades_to_one(gamma):
    """Returns -log10(1 - γ): even steps forget evenly."""
    return -np.log10(np.maximum(1 - np.asarray(gamma), 1e-9))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--trials", type=int, default=24, help="trials in all, earlier ones included"
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depth", type=int, default=10, help="hidden layers")
    parser.add_argument("--directory", type=Path, default=Path("tuning/runs"))
    arguments = parser.parse_args()
    try:
        tuner = search(**vars(arguments))
    except KeyboardInterrupt:
        print("\nStopped. Finished trials are kept; run the same command again to go on.")
        return 130
    rows = results(tuner)
    (arguments.directory / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    plot(rows, arguments.directory / "search.png")
    for row in rows[:5]:
        print("  " + "  ".join(f"{k} {v:.4g}" if k != "optimizer" else v for k, v in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
