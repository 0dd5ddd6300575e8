"""Keras's `fit` and `predict` against `accelerate` and `fast_predict`, side by side.

    python benchmarks/acceleration.py [--quick] [--results FILE]

CPU time, which other programs on the machine disturb little; the contestants take turns, and a
ratio is made in every round. Printed are the medians, with the smallest and the largest ratio.
--quick takes fewer rounds and leaves MobileNet out. KERAS_BACKEND=jax runs it on JAX, whose single
step is compiled by XLA already. Expect on TensorFlow 4 to 6 times on the dense net, 6 on the LSTM,
1 on MobileNetV2, where each step is slow by itself, and 60 to 120 for one row of `fast_predict`.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from kerastools._core.table import format_table
from kerastools.acceleration import accelerate, fast_predict


def dense_net() -> keras.Model:
    hidden = [
        keras.layers.Dense(100, activation="relu", kernel_initializer="he_normal")
        for _ in range(20)
    ]
    return classifier([keras.Input((64,)), *hidden])


def small_lstm() -> keras.Model:
    return classifier([keras.Input((20, 8)), keras.layers.LSTM(32)])


def mobile_net() -> keras.Model:
    trunk = keras.applications.MobileNetV2((96, 96, 3), include_top=False, weights=None)
    return classifier([trunk, keras.layers.GlobalAveragePooling2D()])


def classifier(layers: list) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


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


def row(name: str, slow: list[float], fast: list[float], note: str = "") -> tuple:
    ratios = [s / f for s, f in zip(slow, fast, strict=True)]
    return (
        name,
        1e3 * statistics.median(slow),
        1e3 * statistics.median(fast),
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        note,
    )


def steady(name: str, build: Callable, rows: int, batch: int, warm: int, epochs: int, rounds: int):
    """Compares a step after everything is compiled and chosen."""
    models = [build(), accelerate(build())]
    x, y = data(models[0], rows)
    steps = rows // batch * epochs

    def fit(model: keras.Model) -> Callable[[], float]:
        options = {"batch_size": batch, "epochs": epochs, "verbose": 0}
        return lambda: cpu_seconds(lambda: model.fit(x, y, **options)) / steps

    models[0].fit(x, y, batch_size=batch, verbose=0)
    models[1].fit(x, y, batch_size=batch, epochs=warm, verbose=0)
    return row(name, *in_turn([fit(m) for m in models], rounds), str(models[1].acceleration))


def from_nothing(steps: int, rounds: int) -> tuple:
    """Compares whole trainings of the dense net, tracing and compiling included."""
    x, y = data(dense_net(), 32 * 40)

    def train(accelerated: bool) -> Callable[[], float]:
        def run() -> float:
            model = dense_net()
            if accelerated:
                accelerate(model)
            return cpu_seconds(lambda: model.fit(x, y, epochs=steps // 40, verbose=0))

        return run

    times = in_turn([train(False), train(True)], rounds)
    return row(f"dense 20×100, first {steps} steps", *times)


def one_row(rounds: int) -> list[tuple]:
    """Compares ways to predict one row with the dense net."""
    model = dense_net()
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
        row("1 row: predict", predict, ours),
        row("1 row: predict_on_batch", on_batch, ours),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no MobileNet")
    parser.add_argument("--results", type=Path, help="a file that the table is written to as well")
    options = parser.parse_args()
    quick = options.quick
    rounds = 3 if quick else 7
    rows = [
        steady("dense 20×100", dense_net, 42 * 32, 32, 100, 20, rounds),
        steady("LSTM 32, 20 steps", small_lstm, 42 * 32, 32, 100, 20, rounds),
    ]
    if not quick:
        rows.append(steady("MobileNetV2-96", mobile_net, 8 * 16, 16, 1, 1, rounds))
        rows.append(from_nothing(200, 3))
    rows += one_row(rounds)
    columns = ("", "Keras", "kerastools", "times faster", "chosen")
    title = f"CPU ms a step, a training or a call; {keras.backend.backend()}"
    table = format_table(columns, rows, title=title, width=150)
    print(table)
    if options.results:
        options.results.write_text(f"{table}\n")


if __name__ == "__main__":
    main()
