"""What `SignalMonitor` costs: time of a training step with it and without, side by side.

    python benchmarks/signal_monitor.py

A dense net of 6 layers of 256 units in batches of 128, looked at every 50 steps with 32 rows; the
median over rounds in which both are timed in turn, in one process. Aim: at most 5 % of a step.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from kerastools.callbacks import SignalMonitor

STEPS = 100


def net() -> keras.Model:
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(256, activation="relu") for _ in range(6)]
    model = keras.Sequential([keras.Input((256,)), *hidden, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss)
    return model


class Clock(keras.callbacks.Callback):
    """Times the epochs; the first, in which all is traced, does not count."""

    def on_train_begin(self, logs=None):
        self.times = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter() - self.start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(1)
    x = rng.normal(size=(128 * STEPS, 256)).astype("float32")
    y = rng.integers(0, 10, len(x))
    plain, watched = net(), net()
    ratios, seconds = [], []
    for _ in range(rounds):
        times = []
        for model, extra in ((plain, []), (watched, [SignalMonitor(x[:32], y[:32], every=50)])):
            clock = Clock()
            model.fit(x, y, batch_size=128, epochs=3, verbose=0, callbacks=[*extra, clock])
            times.append(min(clock.times[1:]) / STEPS)
        seconds.append(times)
        ratios.append(times[1] / times[0])
    without, with_it = np.median(seconds, axis=0) * 1e3
    print(f"{keras.backend.backend()}: a step of {without:.2f} ms takes {with_it:.2f} ms watched;")
    print(
        f"cost {np.median(ratios) - 1:+.1%} of a step (median of {rounds} rounds, from "
        f"{min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%})."
    )


if __name__ == "__main__":
    main()
