"""The same training in fewer calls: `fit` against `fit` after `accelerate`, on the digits.

    python examples/acceleration.py --output demo

Twenty dense layers of 100 units, 1,792 rows, batches of 32; then one row is predicted. 30 seconds
of CPU time. Expect 6.0 ms of CPU time a step of `fit` and 2.7 ms after `accelerate`, with weights
that are the same to the bit after 1,680 steps; and 99 ms for one row with `predict`, 2.3 ms with
`predict_on_batch` and 2.0 ms with `fast_predict`. Times differ between machines and runs; by
default `accelerate` chooses while it trains, by measuring, so that the choice may differ too.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import kerastools as kt

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROWS, BATCH = 1792, 32


def net(depth: int) -> keras.Model:
    """A deep dense classifier, the same at each call."""
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(depth):
        model.add(keras.layers.Dense(100, activation="relu"))
    model.add(keras.layers.Dense(10, activation="softmax"))
    kt.calibration.initialize(model, seed=1)
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return model


def milliseconds(call) -> float:
    """Returns the CPU time that `call` takes, in all threads."""
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def medians(calls: dict, rounds: int) -> dict[str, float]:
    """Returns the median time of each call; they take turns."""
    times = [{name: milliseconds(call) for name, call in calls.items()} for _ in range(rounds)]
    return {name: float(np.median([found[name] for found in times])) for name in calls}


def draw(panels: dict, path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 2.6), layout="constrained")
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        colours = [
            "C0" if name in ("accelerate, fit", "fast_predict") else "0.75" for name in found
        ]
        bars = axis.barh(list(found), list(found.values()), color=colours)
        axis.bar_label(bars, [f"{ms:.2f} ms" for ms in found.values()], padding=4)
        axis.invert_yaxis()
        axis.set(title=title, xlabel="CPU milliseconds", xlim=(0, 1.25 * max(found.values())))
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the picture")
    parser.add_argument("--quick", action="store_true", help="a small net, few rounds")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    depth, epochs, rounds, calls = (2, 1, 1, 3) if arguments.quick else (20, 5, 5, 50)
    x, y = load_digits(return_X_y=True)
    x, y = ((x - x.mean()) / x.std()).astype("float32")[:ROWS], y[:ROWS]

    models = {"fit": net(depth), "accelerate, fit": kt.acceleration.accelerate(net(depth))}

    def train(model):
        keras.utils.set_random_seed(1)  # The same order of the rows for both.
        model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)

    fits = {name: partial(train, model) for name, model in models.items()}
    for name, fit in fits.items():
        print(f"First {name}, with what it compiles: {milliseconds(fit) / 1e3:.1f} s of CPU time.")
    steps = epochs * ROWS // BATCH
    a_step = {name: ms / steps for name, ms in medians(fits, rounds).items()}
    plain, fast = models.values()
    print(f"accelerate chose {fast.acceleration}.")
    pairs = zip(plain.get_weights(), fast.get_weights(), strict=True)
    apart = max(float(np.abs(a - b).max()) for a, b in pairs)
    print(
        f"Largest difference of a weight after {int(fast.optimizer.iterations)} steps: {apart:.1e}"
    )

    fast_predict = kt.acceleration.fast_predict(plain)
    predictions = {
        "predict": lambda: plain.predict(x[:1], verbose=0),
        "predict_on_batch": lambda: plain.predict_on_batch(x[:1]),
        "fast_predict": lambda: fast_predict(x[:1]),
    }
    medians(predictions, 1)  # Compiles.
    one_row = medians(predictions, calls)
    panels = {f"A step of training, {depth} dense layers": a_step, "One row predicted": one_row}
    for title, found in panels.items():
        print(f"{title}:", ", ".join(f"{k} {ms:.2f}" for k, ms in found.items()), "ms of CPU time")
    draw(panels, arguments.output / "acceleration.png")
    print(f"The picture is in {arguments.output / 'acceleration.png'}.")


if __name__ == "__main__":
    main()
