"""Find a learning rate, then cycle it: a deep dense net on the digits, against a constant rate.

    python examples/training.py --output demo

`LearningRateFinder` sweeps the learning rate in the first 100 steps of `fit` and suggests one;
then ten layers of 100 units train for 12 epochs with that rate, constant, and with `OneCycle` up
to three times that rate, over three seeds. 40 seconds of CPU time. Expect a suggestion of 0.0022,
and a validation accuracy of 0.957 (0.943 to 0.969) with the constant rate and of 0.970 (0.965 to
0.978) with the cycle, which was ahead with each seed.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kerastools as kt

matplotlib.use("agg")
import matplotlib.pyplot as plt

BATCH = 32


def net(rate: float, depth: int, seed: int) -> keras.Model:
    """Dense layers with weights that suit ReLU, and an optimizer whose numbers are live."""
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(depth):
        model.add(keras.layers.Dense(100, activation="relu"))
    model.add(keras.layers.Dense(10, activation="softmax"))
    kt.calibration.initialize(model, seed=seed)
    optimizer = kt.optimizers.SGD(rate, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def draw(finder, cycle, curves, num_steps, path) -> None:
    """Draws what the finder saw, and what the cycle did and reached."""
    figure, axes = plt.subplot_mosaic(
        [["finder", "cycle"], ["finder", "accuracy"]], figsize=(11, 5), layout="constrained"
    )
    finder.plot(axes["finder"])
    axes["finder"].set_title("LearningRateFinder, one sweep")
    steps = np.arange(num_steps)
    epochs = steps * BATCH / 1344
    rates = [cycle.learning_rate_at(t, num_steps) for t in steps]
    axes["cycle"].plot(epochs, rates, "C1")
    axes["cycle"].set_title("OneCycle")
    axes["cycle"].set_ylabel("learning rate", color="C1")
    momentum = axes["cycle"].twinx()
    momentum.plot(epochs, [cycle.momentum_at(t, num_steps) for t in steps], "C2--")
    momentum.set_ylabel("momentum", color="C2")
    for colour, (way, found) in zip(("0.4", "C0"), curves.items(), strict=True):
        at = np.arange(1, len(found[0]) + 1)
        axes["accuracy"].plot(at, np.transpose(found), color=colour, alpha=0.3, linewidth=0.8)
        axes["accuracy"].plot(at, np.mean(found, 0), "o-", color=colour, markersize=3, label=way)
    axes["accuracy"].set(xlabel="epoch", ylabel="validation accuracy", ylim=(None, 1))
    axes["accuracy"].legend(loc="lower right", title="mean of the seeds")
    axes["accuracy"].sharex(axes["cycle"])
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the picture")
    parser.add_argument("--quick", action="store_true", help="one seed, a small net, two epochs")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    depth, epochs, seeds = (2, 2, 1) if arguments.quick else (10, 12, 3)
    x, y = load_digits(return_X_y=True)
    x = ((x - x.mean()) / x.std()).astype("float32")
    x, test_x, y, test_y = train_test_split(x, y, train_size=1344, random_state=0)

    # The sweep takes the first 100 steps of this fit, puts everything back and goes on.
    finder = kt.callbacks.LearningRateFinder(1e-5, 10.0, steps=100)
    keras.utils.set_random_seed(0)
    net(0.01, depth, 0).fit(x, y, batch_size=BATCH, epochs=3, verbose=0, callbacks=[finder])
    rate = finder.suggestion
    print(f"LearningRateFinder suggests {rate:.2g}.")

    cycle = kt.callbacks.OneCycle(3 * rate)
    curves = {f"constant {rate:.2g}": [], f"OneCycle up to {3 * rate:.2g}": []}
    for seed in range(1, seeds + 1):
        for (way, found), callbacks in zip(curves.items(), ([], [cycle]), strict=True):
            keras.utils.set_random_seed(seed)
            fit = {"batch_size": BATCH, "validation_data": (test_x, test_y), "verbose": 0}
            history = net(rate, depth, seed).fit(x, y, epochs=epochs, callbacks=callbacks, **fit)
            found.append(history.history["val_accuracy"])
            print(f"seed {seed}, {way}: validation accuracy {found[-1][-1]:.3f}")
    for way, found in curves.items():
        last = [curve[-1] for curve in found]
        print(f"{way}: {np.mean(last):.3f}, from {min(last):.3f} to {max(last):.3f}")
    num_steps = epochs * len(x) // BATCH
    draw(finder, cycle, curves, num_steps, arguments.output / "training.png")
    print(f"The picture is in {arguments.output / 'training.png'}.")


if __name__ == "__main__":
    main()
