"""Serve a small CNN: fold its batch normalisation, freeze its weights, compare in a new process.

    python examples/serving.py --output demo

Four convolutions, each with batch normalisation, trained for eight epochs, exported by
`export_savedmodel` and by Keras's `model.export`, and served in turns by a process that has only
TensorFlow. 30 seconds of CPU time. Expect a test accuracy of 0.978, all four normalisations folded,
outputs that differ by 4.8e-06 at most, and 0.52 ms of CPU time a call with one row, 1.40 times as
fast as `model.export`; with 32 rows 2.87 ms, 1.13 times. Times differ between machines and runs.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import kerastools as kt

matplotlib.use("agg")
import matplotlib.pyplot as plt

# What a server does: it loads both by their signature and knows nothing of kerastools.
SERVER = """
import json, sys, time
import numpy as np, tensorflow as tf
folder, rounds, *paths = sys.argv[1:]
x = np.load(f"{folder}/x.npy")
loaded = [tf.saved_model.load(path) for path in paths]  # Kept: signatures do not keep it alive.
served = [model.signatures["serving_default"] for model in loaded]
keys = [next(iter(f.structured_input_signature[1])) for f in served]
def call(i, rows):
    return next(iter(served[i](**{keys[i]: tf.constant(rows)}).values())).numpy()
np.save(f"{folder}/served.npy", call(0, x))
found = {}
for rows in (1, 32):
    times = [[] for _ in served]
    for _ in range(int(rounds) + 3):
        for i, spent in enumerate(times):  # In turns, so that a busy machine slows both alike.
            start = time.process_time()
            call(i, x[:rows])
            spent.append(1e3 * (time.process_time() - start))
    found[rows] = [np.quantile(spent[3:], [0.25, 0.5, 0.75]).tolist() for spent in times]
assert "kerastools" not in sys.modules
print(json.dumps(found))
"""


def net(filters: tuple[int, ...]) -> keras.Model:
    layers = [keras.Input((8, 8, 1))]
    for i, number in enumerate(filters, start=1):
        layers += [
            keras.layers.Conv2D(number, 3, padding="same", use_bias=False, name=f"conv_{i}"),
            keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{i}"),
            keras.layers.ReLU(name=f"relu_{i}"),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, name="digit")]
    model = keras.Sequential(layers, name="cnn")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kt.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def draw(found: dict, path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 2.4), layout="constrained")
    for axis, (rows, quartiles) in zip(axes, found.items(), strict=True):
        low, middle, high = np.transpose(quartiles)
        names = ["folded, frozen", "model.export"]
        error = [middle - low, high - middle]
        bars = axis.barh(names, middle, xerr=error, color=["C0", "0.75"])
        axis.bar_label(bars, [f"{ms:.2f} ms" for ms in middle], padding=8)
        axis.set(xlim=(0, 1.3 * max(high)), xlabel="CPU milliseconds a call (median, quartiles)")
        axis.set_title(f"{rows} rows a call" if int(rows) > 1 else "One row a call")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of all it writes")
    parser.add_argument("--quick", action="store_true", help="a small net, one epoch, few calls")
    arguments = parser.parse_args()
    folder = arguments.output / "serving_cnn"
    folder.mkdir(parents=True, exist_ok=True)
    epochs, rounds = (1, 5) if arguments.quick else (8, 300)
    images, y = load_digits().images, load_digits().target
    x = (images[..., None] / 16).astype("float32")

    keras.utils.set_random_seed(1)
    model = net((8,) if arguments.quick else (16, 32, 32, 64))
    # 1344 rows are whole batches: a last batch of few rows would disturb batch normalisation.
    model.fit(x[:1344], y[:1344], epochs=epochs, verbose=0)
    print(f"Test accuracy {model.evaluate(x[1344:], y[1344:], verbose=0)[1]:.3f}\n")

    _, report = kt.folding.fold_batch_norm(model, return_report=True, sample=x[:32])
    print(report, "\n")
    exported = kt.export.export_savedmodel(model, folder / "digits", sample=x[:32])
    print(exported, "\n")
    model.export(folder / "plain", verbose=False)

    np.save(folder / "x.npy", x[1344:])
    paths = [exported.path, str(folder / "plain")]
    command = [sys.executable, "-c", SERVER, str(folder), str(rounds), *paths]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    apart = np.abs(np.load(folder / "served.npy") - model.predict(x[1344:], verbose=0)).max()
    print(f"Served without kerastools; largest difference to the trained model {apart:.1e}.")
    for rows, ((_, ours, _), (_, plain, _)) in found.items():
        ratio = f"{plain / ours:.2f} times as fast as model.export, {plain:.2f} ms"
        print(f"Rows a call {rows}: {ours:.2f} ms of CPU time, {ratio}.")
    draw(found, arguments.output / "serving.png")
    print(f"The picture is in {arguments.output / 'serving.png'}.")


if __name__ == "__main__":
    main()
