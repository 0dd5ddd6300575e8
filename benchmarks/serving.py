"""Measures how much faster a model serves after `export_savedmodel` than after `model.export`.

Usage: python benchmarks/serving.py [NAME ...] [--batch 1 32] [--rounds 40] [--quick]
       [--results FILE]

Each network, with random weights, is exported four ways: plainly by Keras, folded, frozen, and
both, which is the default of kerastools. All are loaded and served by `serving_default` in this
process on one thread, in turns, so that a busy machine slows all alike. Printed is the median CPU
time of Keras's export in milliseconds and how many times faster each of ours is; above 1 is faster.
"from" and "to" bound the middle half of the rounds, each of which has a ratio of the default.
Beside it stand other runtimes that read the default export, each where it is installed (`pip
install openvino ai-edge-litert onnxruntime tf2onnx`), also on one thread and in float32. TensorFlow
uses oneDNN, as it does by itself on processors with AVX512-VNNI. Two minutes or so per network on
two cores; a third of that with --quick, which leaves out all but the default. With --results each
line is appended to a CSV file as it comes, and a run that was cut goes on where it stopped. What
was run so far is kept in benchmarks/results/serving.txt.
"""

import argparse
import csv
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kerastools._core.table import format_table
from kerastools.export import export_savedmodel

NETWORKS = ("small", "MobileNetV2", "EfficientNetB0", "ResNet50")
OTHERS = ("DenseNet121", "InceptionV3", "Xception")
WAYS = {
    "folded": {"fold": True, "freeze": False},
    "frozen": {"fold": False, "freeze": True},
    "both": {"fold": True, "freeze": True},
}
Serve = Callable[[], Any]


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


def serve_tensorflow(path: Path, x: np.ndarray) -> Serve:
    """Returns what TensorFlow Serving runs."""
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    inputs = {name: tf.constant(x)}
    return lambda _alive=loaded: signature(**inputs)


def serve_openvino(path: Path, x: np.ndarray) -> Serve:
    import openvino

    model = openvino.convert_model(str(path), input=[x.shape])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda: compiled(x)


def serve_onnxruntime(path: Path, x: np.ndarray) -> Serve:
    import onnxruntime

    target = path.parent / "model.onnx"
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(path)]
    subprocess.run([*command, "--output", str(target)], check=True, capture_output=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(target), options)
    (name,) = (i.name for i in session.get_inputs())
    return lambda: session.run(None, {name: x})


def serve_litert(path: Path, x: np.ndarray) -> Serve:
    from ai_edge_litert.interpreter import Interpreter

    converted = tf.lite.TFLiteConverter.from_saved_model(str(path)).convert()
    interpreter = Interpreter(model_content=converted, num_threads=1)
    (index,) = (i["index"] for i in interpreter.get_input_details())
    interpreter.resize_tensor_input(index, x.shape)
    interpreter.allocate_tensors()

    def serve() -> None:
        interpreter.set_tensor(index, x)
        interpreter.invoke()

    return serve


RUNTIMES = {
    "OpenVINO": serve_openvino,
    "ONNX Runtime": serve_onnxruntime,
    "LiteRT": serve_litert,
}


def exports(model: keras.Model, folder: Path, quick: bool) -> dict[str, Path]:
    """Writes the model each way; returns where."""
    model.export(folder / "keras", verbose=False)
    paths = {"keras": folder / "keras"}
    for way in ["both"] if quick else WAYS:
        paths[way] = Path(export_savedmodel(model, folder / way, **WAYS[way]).path)
    return paths


def latencies(serve: dict[str, Serve], rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Returns the CPU time of each round of each way in milliseconds, measured in turns."""
    times: dict[str, list[float]] = {way: [] for way in serve}
    for _, (way, call) in itertools.product(range(warm_up + rounds), serve.items()):
        start = time.process_time()
        call()
        times[way].append(1e3 * (time.process_time() - start))
    return {way: values[warm_up:] for way, values in times.items()}


def measure(
    name: str, batches: list[int], rounds: int, quick: bool
) -> Iterator[tuple[object, ...]]:
    """Yields the lines of the table for one network."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = network(name)
    with tempfile.TemporaryDirectory() as folder:
        paths = exports(model, Path(folder), quick)
        size = {
            way: sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
            for way, path in paths.items()
        }
        for batch in batches:
            shape = (batch, *model.input_shape[1:])
            x = np.random.default_rng(0).normal(size=shape).astype("float32")
            serve = {way: serve_tensorflow(path, x) for way, path in paths.items()}
            for runtime, load in () if quick else RUNTIMES.items():
                try:
                    serve[runtime] = load(paths["both"], x)
                except (ImportError, subprocess.CalledProcessError) as error:
                    print(f"{name}: no {runtime}, {type(error).__name__}", flush=True)
            times = latencies(serve, *((rounds, 3) if batch == 1 else (max(rounds // 5, 5), 1)))
            cost = {way: statistics.median(values) for way, values in times.items()}
            pairs = zip(times["keras"], times["both"], strict=True)
            low, _, high = statistics.quantiles([k / b for k, b in pairs], n=4)
            ways, runtimes = (
                [cost["keras"] / cost[w] if w in cost else "" for w in group]
                for group in (WAYS, RUNTIMES)
            )
            yield (
                name,
                batch,
                cost["keras"],
                *ways,
                low,
                high,
                *runtimes,
                size["keras"] / size["both"],
            )


def read(results: Path | None) -> list[tuple[object, ...]]:
    """Returns the lines that an earlier run has written."""
    if results is None or not results.exists():
        return []
    with results.open() as file:
        return [
            (name, int(batch), *(float(v) if v else "" for v in values))
            for name, batch, *values in csv.reader(file)
        ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NETWORKS, help=f"by default {NETWORKS}")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(OTHERS)}")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=40, help="calls of each way at batch 1")
    parser.add_argument("--quick", action="store_true", help="model.export and the default only")
    parser.add_argument("--results", type=Path, help="CSV file to append to and go on from")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rows = read(options.results)
    for name in (*NETWORKS, *OTHERS) if options.all else options.names:
        done = [batch for row_name, batch, *_ in rows if row_name == name]
        missing = [batch for batch in options.batch if batch not in done]
        for row in measure(name, missing, options.rounds, options.quick) if missing else ():
            rows.append(row)
            if options.results:
                with options.results.open("a") as file:
                    csv.writer(file).writerow(row)
            print(f"{name}, batch {row[1]}: {row[5]:.2f} times as fast", flush=True)
    first = ("network", "batch", "model.export, ms", *WAYS, "from", "to")
    print(format_table((*first, *RUNTIMES, "times smaller"), rows, width=150))


if __name__ == "__main__":
    main()
