"""Trials per minute of PopulationTuner against keras_tuner.RandomSearch, on digits.

    python benchmarks/search.py                    # all; --rounds 1 --trials 8 is quicker
    python benchmarks/search.py dense cnn          # some: dense, cnn, live, wide, paired, ...
    KERAS_BACKEND=jax python benchmarks/search.py dense cnn

The same nets and configurations, the same epochs and state files of both, interleaved rounds, CPU
time of the process on one thread; tracing is counted. `stacked` trains eight trials at once, `live`
one after the other on one compiled model; `few` has too few trials of one structure to fill a
population. keras-tuner trains a third of the trials, all with `--whole`. `paired` has it train the
same configurations, `memory` prints the resident memory over 200 trials, `processes` the wall time
of one process and of two at one search (both cores must be free), `target` the CPU seconds to a
validation accuracy with successive halving and with Hyperband.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault(  # One thread on JAX.
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import keras
import keras_tuner

sys.path.insert(0, str(Path(__file__).parents[1] / "tuning"))
import digits

from kerastools.layers import Dropout
from kerastools.optimizers import SGD, Adam
from kerastools.search import (
    OptunaOracle,
    PopulationTuner,
    SuccessiveHalving,
    betas,
    dropout,
    learning_rate,
    momentum,
)

EPOCHS = 10
TARGET = 0.975


class Own(keras.layers.Layer):
    """A layer that only its author knows: its net is trained trial after trial."""

    def call(self, x):
        return keras.ops.tanh(x)


def dense(depth, units, activation=lambda: keras.layers.Activation("elu")):
    def build(hp):
        layers = [keras.Input((64,))]
        rate = dropout(hp)
        for _ in range(depth):
            layers += [
                keras.layers.Dense(units, use_bias=False, kernel_initializer="he_normal"),
                keras.layers.BatchNormalization(),
                activation(),
                Dropout(rate),
            ]
        model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
        beta_1, beta_2 = betas(hp)
        optimizer = Adam(learning_rate(hp, 1e-4, 1e-2), beta_1=beta_1, beta_2=beta_2)
        return compiled(model, optimizer)

    return build


def some_width(hp):
    return dense(3, hp.Int("units", 32, 128, step=32))(hp)


def cnn(hp):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            Dropout(dropout(hp, "convolutional")),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    return compiled(model, SGD(learning_rate(hp, 1e-3, 0.3), momentum(hp), nesterov=True))


def compiled(model, optimizer):
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def keras_tuner_way(build, folder, trials, seed):
    return keras_tuner.RandomSearch(
        build, "val_accuracy", max_trials=trials, seed=seed, directory=folder
    )


def live(build, folder, trials, seed):
    return PopulationTuner(
        build, "val_accuracy", max_trials=trials, seed=seed, directory=folder, population=1
    )


def stacked(build, folder, trials, seed):
    return PopulationTuner(build, "val_accuracy", max_trials=trials, seed=seed, directory=folder)


WAYS = {"keras-tuner": keras_tuner_way, "live": live, "stacked": stacked}


def search(tuner, epochs=EPOCHS, **arguments):
    data = digits.digits()
    tuner.search(
        *data["search"],
        validation_data=data["validation"],
        batch_size=32,
        epochs=epochs,
        verbose=0,
        **arguments,
    )


def measure(make, build, trials, seed):
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        tuner = make(build, folder, trials, seed)
        search(tuner)
        seconds = time.process_time() - start
        return 60 * trials / seconds, tuner.oracle.get_best_trials(1)[0].score


def rates(name, build, ways, trials, arguments):
    print(f"{name}; {trials} trials of {EPOCHS} epochs")
    print("  way          trials/min  times keras-tuner (each round)    best accuracy")
    found = {way: [] for way in ways}
    best = dict.fromkeys(ways, 0.0)
    for i in range(arguments.rounds):
        for way in ways:
            # keras-tuner takes several seconds a trial: a third of them tell its rate.
            third = way == "keras-tuner" and not arguments.whole
            count = max(2, trials // 3) if third else trials
            rate, score = measure(WAYS[way], build, count, arguments.seed + i)
            found[way].append(rate)
            best[way] = max(best[way], score)
    for way, values in found.items():
        ratios = [v / k for v, k in zip(values, found["keras-tuner"], strict=True)]
        print(
            f"  {way:<12} {statistics.median(values):>10.1f}  "
            f"{statistics.median(ratios):>6.1f} ({', '.join(f'{r:.1f}' for r in ratios)})"
            f"    {best[way]:.3f}",
            flush=True,
        )


class Repeat(keras_tuner.oracles.GridSearchOracle):
    """Gives the configurations of another search, in their order."""

    def __init__(self, configurations, **arguments):
        super().__init__(**arguments)
        self.configurations = configurations

    def populate_space(self, trial_id):
        values = self.configurations.get(trial_id)
        return {"status": "STOPPED"} if values is None else {"status": "RUNNING", "values": values}


def paired(name, build, trials, arguments):
    """The best score of the same configurations, each trained by both."""
    mine, own = [], []
    for i in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            tuner = stacked(build, folder, trials, arguments.seed + i)
            search(tuner)
            mine.append(tuner.oracle.get_best_trials(1)[0].score)
            drawn = {n: t.hyperparameters.values for n, t in tuner.oracle.trials.items()}
            oracle = Repeat(drawn, objective=tuner.oracle.objective, max_trials=trials)
            other = keras_tuner.Tuner(oracle, build, directory=folder, project_name="other")
            search(other)
            own.append(other.oracle.get_best_trials(1)[0].score)
    pairs = ", ".join(f"{a:.3f} and {b:.3f}" for a, b in zip(mine, own, strict=True))
    print(
        f"{name}: best accuracy of the same {trials} configurations, here and keras-tuner: {pairs}"
    )


CALL = """
import sys
sys.path.insert(0, sys.argv[1])
import search
getattr(search, sys.argv[2])(*sys.argv[3:])
"""


def in_a_process(function, *arguments):
    """Returns the command that calls a function of this file in a process of its own."""
    here = str(Path(__file__).parent)
    return [sys.executable, "-c", CALL, here, function.__name__, *map(str, arguments)]


def memory_here(trials, population):
    """Prints the resident megabytes after every fifth of the trials."""
    trials, population, marks = int(trials), int(population), []

    class Marked(PopulationTuner):
        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            if len(self.oracle.end_order) % max(1, trials // 5) == 0:
                marks.append(resident())

    digits.digits()
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        tuner = Marked(dense(10, 100), "val_accuracy", trials, population, directory=folder, seed=1)
        search(tuner, epochs=2)
    print(f"{before:.0f} {' '.join(f'{mark:.0f}' for mark in marks)}")


def share(storage, folder, trials, seed):
    """Works on a search that others may work on too; prints when it began and ended."""
    trials, seed = int(trials), int(seed)
    digits.digits()
    begun = time.time()
    oracle = OptunaOracle("val_accuracy", trials, storage=storage, seed=seed, study_name="shared")
    search(PopulationTuner(dense(10, 100), oracle=oracle, directory=folder, seed=seed))
    print(begun, time.time())


def processes(trials, arguments):
    """Wall time of one search by one process and by two, which share a SQLite database."""
    print(f"10 layers of 100, {trials} trials on a SQLite storage, wall seconds")
    ratios = []
    for i in range(arguments.rounds):
        seconds = []
        for count in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                storage, seed = f"sqlite:///{folder}/search.db", arguments.seed + i
                commands = [
                    in_a_process(share, storage, f"{folder}/{k}", trials, seed)
                    for k in range(count)
                ]
                started = [
                    subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                    for command in commands
                ]
                outputs = [process.communicate()[0] for process in started]
            if any(process.returncode for process in started):
                raise RuntimeError("a process of the search failed")
            times = [tuple(map(float, o.splitlines()[-1].split())) for o in outputs]
            seconds.append(max(end for _, end in times) - min(begun for begun, _ in times))
        ratios.append(seconds[0] / seconds[1])
        print(f"  one {seconds[0]:.1f}, two {seconds[1]:.1f}", flush=True)
    listed = ", ".join(f"{r:.2f}" for r in ratios)
    print(f"  two processes {statistics.median(ratios):.2f} times one ({listed})", flush=True)


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def memory():
    grown = []
    for trials, population in ((200, 8), (40, 1)):
        command = in_a_process(memory_here, trials, population)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(
            f"resident MB with {population} at a time, before and after each fifth of {trials} "
            f"trials: {done.stdout.splitlines()[-1]}",
            flush=True,
        )
        before, *marks = map(float, done.stdout.splitlines()[-1].split())
        grown.append(max(marks) - before)
    print(f"growth with 8 at a time {grown[0] / grown[1]:.1f} times that with 1")


def target(arguments, seeds=5):
    """CPU seconds until a trial has the target accuracy; both search the same space until then."""
    print(f"CPU seconds to a validation accuracy of {TARGET}, 10 layers of 100, by seed")
    mine, own = [], []
    for seed in range(seeds):
        for found, make in ((mine, halving), (own, hyperband)):
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                tuner = make(folder, seed)
                tuner.start = start
                try:
                    search(tuner, epochs=EPOCHS)
                    raise RuntimeError(f"{make.__name__} ended without the target")
                except Reached as reached:
                    found.append(reached.args[0])
        print(f"  seed {seed}: halving {mine[-1]:.1f}, Hyperband {own[-1]:.1f}", flush=True)
    ratios = [b / a for a, b in zip(mine, own, strict=True)]
    print(f"  times faster: median {statistics.median(ratios):.1f}, from {min(ratios):.1f}")


class Reached(keras_tuner.errors.FatalError):
    """The target accuracy is reached."""


class Stop:
    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        score = self.oracle.trials[trial.trial_id].score
        if score is not None and score >= TARGET:
            raise Reached(time.process_time() - self.start)


class StoppedPopulation(Stop, PopulationTuner):
    pass


class StoppedHyperband(Stop, keras_tuner.Hyperband):
    pass


def halving(folder, seed):
    return StoppedPopulation(
        dense(10, 100),
        "val_accuracy",
        1000,
        halving=SuccessiveHalving(3, 1),
        seed=seed,
        directory=folder,
    )


def hyperband(folder, seed):
    return StoppedHyperband(
        dense(10, 100),
        "val_accuracy",
        max_epochs=EPOCHS,
        factor=3,
        hyperband_iterations=20,
        seed=seed + 1,
        directory=folder,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ["dense", "cnn", "live", "wide", "few", "paired", "memory", "processes", "target"]
    parser.add_argument("kinds", nargs="*", default=kinds, metavar="|".join(kinds))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    trials, few = arguments.trials, min(8, arguments.trials)
    both, one = ["keras-tuner", "stacked"], ["keras-tuner", "live"]
    for kind in arguments.kinds:
        if kind == "dense":
            name = "10 layers of 100, batch normalisation, dropout, Adam"
            rates(name, dense(10, 100), both, trials, arguments)
        elif kind == "cnn":
            rates("two convolutions, dropout, SGD", cnn, both, trials, arguments)
        elif kind == "live":
            name = "10 layers of 100 with a layer of its author's own"
            rates(name, dense(10, 100, Own), one, few, arguments)
        elif kind == "wide":
            rates("4 layers of 512", dense(4, 512), both, few, arguments)
        elif kind == "few":
            rates("4 layers of 512", dense(4, 512), both, 2, arguments)
            rates("3 layers of one of 4 widths", some_width, both, 6, arguments)
        elif kind == "paired":
            paired("two convolutions", cnn, few, arguments)
        elif kind == "memory":
            memory()
        elif kind == "processes":
            processes(2 * trials, arguments)
        elif kind == "target":
            target(arguments)


if __name__ == "__main__":
    main()
