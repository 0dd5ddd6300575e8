"""Measures how much faster a model serves after `export_savedmodel` than after `model.export`.

Usage: python benchmarks/serving.py [NAME ...] [--batch 1 32] [--rounds 25]

Each network, with random weights, is exported four ways: plainly by Keras, folded, frozen, and
both, which is the default of kerastools. All are loaded and served by `serving_default` in this
process on one thread, in turns, so that a busy machine slows all alike. Printed is the median CPU
time of Keras's export in milliseconds and how many times faster each of ours is; above 1 is faster.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kerastools._core._table import format_table
from kerastools.export import export_savedmodel

NETWORKS = ("small", "MobileNetV2", "EfficientNetB0", "ResNet50")
WAYS = {
    "folded": {"fold": True, "freeze": False},
    "frozen": {"fold": False, "freeze": True},
    "both": {"fold": True, "freeze": True},
}


def network(name: str) -> keras.Model:
    """Returns an architecture of keras.applications, or a keyword spotter of depthwise layers."""
    if name != "small":
        return getattr(keras.applications, name)(weights=None)
    parts: list[keras.Layer] = [layers.Conv2D(64, (10, 4), strides=2, padding="same")]
    for _ in range(4):
        parts += [
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(64, 1, use_bias=False),
        ]
    parts += [layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((49, 10, 1)), *parts, layers.Dense(12)])


def signatures(model: keras.Model, folder: Path) -> tuple[dict[str, object], dict[str, int]]:
    """Returns what serves each way, ready to call, and the bytes each takes on disk."""
    model.export(folder / "keras", verbose=False)
    paths = {"keras": folder / "keras"}
    for way, options in WAYS.items():
        paths[way] = Path(export_savedmodel(model, folder / way, **options).path)
    sizes = {
        way: sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        for way, path in paths.items()
    }
    loaded = {way: tf.saved_model.load(str(path)) for way, path in paths.items()}
    return {way: model.signatures["serving_default"] for way, model in loaded.items()}, sizes


def latencies(serve: dict[str, object], x: tf.Tensor, rounds: int) -> dict[str, float]:
    """Returns the median CPU time of each way in milliseconds, measured in turns."""
    times: dict[str, list[float]] = {way: [] for way in serve}
    for _, (way, signature) in itertools.product(range(rounds + 3), serve.items()):
        (name,) = signature.structured_input_signature[1]
        start = time.process_time()
        signature(**{name: x})
        times[way].append(1e3 * (time.process_time() - start))
    return {way: statistics.median(values[3:]) for way, values in times.items()}


def measure(name: str, batches: list[int], rounds: int) -> list[tuple[object, ...]]:
    """Returns the lines of the table for one network."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = network(name)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        serve, sizes = signatures(model, Path(folder))
        for batch in batches:
            shape = (batch, *model.input_shape[1:])
            x = tf.constant(np.random.default_rng(0).normal(size=shape).astype("float32"))
            cost = latencies(serve, x, rounds if batch == 1 else max(rounds // 4, 5))
            ratios = [cost["keras"] / cost[way] for way in WAYS]
            smaller = sizes["keras"] / sizes["both"]
            rows.append((name, batch, cost["keras"], *ratios, smaller))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NETWORKS, help=f"by default {NETWORKS}")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=25, help="calls of each way at batch 1")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rows = []
    for name in options.names:
        rows += measure(name, options.batch, options.rounds)
        print(f"{name} done", flush=True)
    columns = ("network", "batch", "model.export, ms", *WAYS, "times smaller")
    print(format_table(columns, rows))


if __name__ == "__main__":
    main()
