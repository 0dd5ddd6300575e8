"""Trials per minute of PopulationTuner against keras_tuner.RandomSearch, on digits.

    python benchmarks/search.py            # about ten minutes; --rounds 1 --trials 8 is quicker

The same net, configurations drawn from the same space, the same epochs and state files of both,
interleaved rounds, CPU time of the process on one thread; tracing is counted. `stacked` trains
eight trials at once, `live` one after the other on one compiled model.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_tuner
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[1] / "tuning"))
import digits

from kerastools.layers import Dropout
from kerastools.optimizers import Adam
from kerastools.search import PopulationTuner, betas, dropout, learning_rate

EPOCHS = 10


def dense(depth, units):
    def build(hp):
        layers = [keras.Input((64,))]
        rate = dropout(hp)
        for _ in range(depth):
            layers += [
                keras.layers.Dense(units, use_bias=False, kernel_initializer="he_normal"),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("elu"),
                Dropout(rate),
            ]
        model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
        beta_1, beta_2 = betas(hp)
        model.compile(
            Adam(learning_rate(hp, 1e-4, 1e-2), beta_1=beta_1, beta_2=beta_2),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    return build


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


def measure(make, build, trials, seed):
    data = digits.digits()
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        tuner = make(build, folder, trials, seed)
        tuner.search(
            *data["search"],
            validation_data=data["validation"],
            batch_size=32,
            epochs=EPOCHS,
            verbose=0,
        )
        seconds = time.process_time() - start
        return 60 * trials / seconds, tuner.oracle.get_best_trials(1)[0].score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name, depth, units, trials in (
        ("10 layers of 100", 10, 100, arguments.trials),
        ("4 layers of 512", 4, 512, min(8, arguments.trials)),
    ):
        print(f"{name}, batch normalisation, dropout, Adam; {trials} trials of {EPOCHS} epochs")
        print("  way          trials/min  times keras-tuner (each round)    best accuracy")
        rates = {way: [] for way in WAYS}
        best = dict.fromkeys(WAYS, 0.0)
        for i in range(arguments.rounds):
            for way, make in WAYS.items():
                # keras-tuner takes several seconds a trial: a third of them tell its rate.
                count = max(2, trials // 3) if way == "keras-tuner" else trials
                rate, score = measure(make, dense(depth, units), count, arguments.seed + i)
                rates[way].append(rate)
                best[way] = max(best[way], score)
        for way, values in rates.items():
            ratios = [v / k for v, k in zip(values, rates["keras-tuner"], strict=True)]
            print(
                f"  {way:<12} {statistics.median(values):>10.1f}  "
                f"{statistics.median(ratios):>6.1f} ({', '.join(f'{r:.1f}' for r in ratios)})"
                f"    {best[way]:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
