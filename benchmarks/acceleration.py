"""Keras's `fit` and `predict` against `accelerate` and `fast_predict`, side by side.

    python benchmarks/acceleration.py [--quick] [--nets dense,lstm,cnn] [--results FILE]

The peers are plain Keras and its own switches: `steps_per_execution=32`, `jit_compile=True`, both
(on JAX, which compiles each step by itself, only the first). They take turns with `accelerate` in
every round; printed are the medians of the CPU time of one thread, which other programs disturb
little, and the ratio to the fastest peer of that line, with the smallest and largest of a round.

A long run is a step after everything is compiled and chosen. A whole training is 1,024 steps from
`compile` on, tracing and compiling included. --quick takes fewer rounds and leaves MobileNet out.
KERAS_BACKEND=jax runs it on JAX; another Keras is taken from PYTHONPATH. Expect on TensorFlow, in
the long run and over a whole training, 2.5 and 1.9 on the dense net, 2.3 and 1.6 on the LSTM, 1.1
to 1.9 and 2 on the small CNN, and 60 to 120 for one row of `fast_predict`.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np

from kerastools._core.table import format_table
from kerastools.acceleration import accelerate, fast_predict

JAX = keras.backend.backend() == "jax"
STEPS_PER_EPOCH = 64
SWITCHES = {
    "fit": {},
    "steps_per_execution": {"steps_per_execution": 32},
    "jit_compile": {"jit_compile": True},
    "both": {"steps_per_execution": 32, "jit_compile": True},
}
PEERS = list(SWITCHES)[:2] if JAX else list(SWITCHES)


def dense_net() -> list:
    dense = keras.layers.Dense
    hidden = [dense(100, activation="relu", kernel_initializer="he_normal") for _ in range(20)]
    return [keras.Input((64,)), *hidden]


def small_lstm() -> list:
    return [keras.Input((20, 8)), keras.layers.LSTM(32)]


def small_cnn() -> list:
    def block(filters: int) -> list:
        return [
            keras.layers.Conv2D(filters, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
        ]

    pool = keras.layers.GlobalAveragePooling2D()
    return [keras.Input((8, 8, 1)), *block(8), *block(16), pool]


def mobile_net() -> list:
    trunk = keras.applications.MobileNetV2((96, 96, 3), include_top=False, weights=None)
    return [keras.Input((96, 96, 3)), trunk, keras.layers.GlobalAveragePooling2D()]


NETS = {
    "dense": ("dense 20×100", dense_net),
    "lstm": ("LSTM 32, 20 steps", small_lstm),
    "cnn": ("CNN 8/16, batch norm", small_cnn),
    "mobilenet": ("MobileNetV2-96", mobile_net),
}


def build(layers: Callable[[], list], way: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([*layers(), keras.layers.Dense(10, activation="softmax")])
    switches = SWITCHES.get(way, {})
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **switches)
    return accelerate(model) if way == "accelerate" else model


def data(model: keras.Model, rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, 10, rows)


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def in_turn(contestants: list[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Returns what each contestant measured in each round."""
    times: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for contestant, measured in zip(contestants, times, strict=True):
            measured.append(contestant())
    return times


def row(name: str, times: list[list[float]], scale: float, note: str = "") -> tuple:
    """Returns a line of the table; the last of `times` is ours, the fastest other its peer."""
    *peers, ours = times
    best = min(peers, key=statistics.median)
    ratios = [b / o for b, o in zip(best, ours, strict=True)]
    numbers = [f"{scale * statistics.median(t):.3g}" for t in times]
    numbers[:0] = [""] * (len(PEERS) - len(peers))
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    return (name, *numbers, ratio, note)


def long_run(net: str, epochs: int, warm: int, rounds: int) -> tuple:
    """Compares a step after everything is compiled and chosen."""
    name, layers = NETS[net]
    batch = 32 if net != "mobilenet" else 16
    steps = STEPS_PER_EPOCH if net != "mobilenet" else 8
    models = [build(layers, way) for way in [*PEERS, "accelerate"]]
    x, y = data(models[0], steps * batch)

    def fit(model: keras.Model, epochs: int) -> float:
        options = {"batch_size": batch, "epochs": epochs, "verbose": 0}
        return cpu_seconds(lambda: model.fit(x, y, **options)) / (steps * epochs)

    for model in models:
        fit(model, warm if model is models[-1] else 1)
    runs = [lambda model=model: fit(model, epochs) for model in models]
    times = in_turn(runs, rounds)
    return row(f"{name}: a step, ms", times, 1e3, str(models[-1].acceleration))


def whole_training(net: str, steps: int, rounds: int) -> tuple:
    """Compares whole trainings from `compile` on, tracing and compiling included."""
    name, layers = NETS[net]
    x, y = data(build(layers, "fit"), STEPS_PER_EPOCH * 32)

    def train(way: str) -> float:
        model = build(layers, way)
        return cpu_seconds(lambda: model.fit(x, y, epochs=steps // STEPS_PER_EPOCH, verbose=0))

    ways = [*PEERS, "accelerate"]
    times = in_turn([lambda way=way: train(way) for way in ways], rounds)
    return row(f"{name}: {steps} steps, s", times, 1.0)


def one_row(rounds: int) -> list[tuple]:
    """Compares ways to predict one row with the dense net."""
    model = build(dense_net, "fit")
    x = data(model, 1)[0]
    fast = fast_predict(model)
    ways = {
        "predict": (lambda: model.predict(x, verbose=0), 5),
        "predict_on_batch": (lambda: model.predict_on_batch(x), 100),
        "fast_predict": (lambda: fast(x), 100),
    }

    def repeated(function: Callable, times: int) -> Callable[[], float]:
        function()
        return lambda: cpu_seconds(lambda: [function() for _ in range(times)]) / times

    predict, on_batch, ours = in_turn([repeated(*way) for way in ways.values()], 2 * rounds)
    return [
        row("1 row: predict, ms", [predict, ours], 1e3),
        row("1 row: predict_on_batch, ms", [on_batch, ours], 1e3),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no MobileNet")
    parser.add_argument("--nets", help="some of dense, lstm, cnn, mobilenet")
    parser.add_argument("--results", type=Path, help="a file that the table is written to as well")
    options = parser.parse_args()
    rounds = 3 if options.quick else 7
    nets = options.nets.split(",") if options.nets else list(NETS)[: 3 if options.quick else 4]
    rows = []
    for net in nets:
        small = net != "mobilenet"
        epochs, warm = (16, 120) if small else (1, 3)
        rows.append(long_run(net, epochs, warm, rounds))
        if small:
            rows.append(whole_training(net, 1024, 3))
    rows += [] if options.nets else one_row(rounds)
    columns = ("", *PEERS, "accelerate / fast", "times the best", "chosen")
    version = f"{keras.backend.backend()}, Keras {keras.__version__}"
    table = format_table(columns, rows, title=f"CPU time of one thread; {version}", width=200)
    print(table)
    if options.results:
        options.results.write_text(f"{table}\n")


if __name__ == "__main__":
    main()
