"""What `SignalMonitor` costs: CPU time of a training step with it and without, side by side.

    python benchmarks/signal_monitor.py

Three nets on TensorFlow, looked at every 50 steps with one batch of training rows. Both models of a
pair are trained in turn in one process and one thread, in blocks of 50 steps as `fit` takes them,
callbacks included, so that whatever else the machine does meets both alike. Printed is the median
over the blocks of the ratio of their CPU times, with its quartiles. What else the machine does only
adds to the time of a block, so the ratio of the fastest quarters of the blocks stands beside it,
which is nearer to the cost on a quiet machine. Such ratios of two models still waver by some per
cent from run to run; free of that is the time spent in the callback's own methods, looks included,
which is told last and leaves out only the comparison inside the compiled step. Aim: at most 5 %.
"""

import argparse
import os
import time

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kerastools.diagnosis import SignalMonitor

EVERY = 50


def dense() -> keras.Model:
    hidden = [layers.Dense(256, activation="relu") for _ in range(6)]
    return keras.Sequential([keras.Input((256,)), *hidden, layers.Dense(10)])


def convolutional() -> keras.Model:
    stack = [keras.Input((16, 16, 3))]
    for filters in (16, 16, 32, 32):
        stack += [layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization()]
        stack += [layers.ReLU()]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(10)])


def attentive() -> keras.Model:
    inputs = keras.Input((32, 32))
    x = inputs
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8)(y, y)])
        y = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(32)(y)])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


# Name: (net, shape of a row, rows of a batch).
NETS = {
    "dense, 6 x 256, batch 128": (dense, (256,), 128),
    "convolutional, 4 layers, batch 32": (convolutional, (16, 16, 3), 32),
    "transformer, 2 blocks, batch 32": (attentive, (32, 32), 32),
}


class Contestant:
    """A model in training, with or without the monitor, that takes its steps as `fit` does."""

    def __init__(self, make, x, y, size, *, watched: bool) -> None:
        keras.utils.set_random_seed(1)
        self.model = make()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.Adam(1e-4), loss)
        callbacks = [SignalMonitor(x[:size], y[:size], every=EVERY)] if watched else []
        self.callbacks = keras.callbacks.CallbackList(callbacks, model=self.model)
        self.callbacks.on_train_begin()
        self.model.make_train_function()
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(size).cache().repeat()
        self.batches = iter(data)
        self.step = 0

    def block(self) -> tuple[float, float]:
        """Returns the CPU seconds of the steps up to the next look, and those in callbacks."""
        start, within = time.process_time(), 0.0
        for _ in range(EVERY):
            before = time.process_time()
            self.callbacks.on_train_batch_begin(self.step)
            within += time.process_time() - before
            logs = self.model.train_function(self.batches)
            before = time.process_time()
            self.callbacks.on_train_batch_end(self.step, logs)
            within += time.process_time() - before
            self.step += 1
        return time.process_time() - start, within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=40)
    blocks = parser.parse_args().blocks
    for name, (make, shape, size) in NETS.items():
        rng = np.random.default_rng(1)
        x = rng.normal(size=(8 * size, *shape)).astype("float32")
        y = rng.integers(0, 10, len(x))
        plain, watched = (Contestant(make, x, y, size, watched=w) for w in (False, True))
        for contestant in (plain, watched):
            contestant.block()  # In which all is traced.
        times = []
        for i in range(blocks):
            # Who goes first is who went last.
            order = (plain, watched) if i % 2 else (watched, plain)
            taken = {contestant: contestant.block() for contestant in order}
            times.append((*taken[plain], *taken[watched]))
        without, without_inside, with_it, inside = np.array(times).T
        low, median, high = np.percentile(with_it / without - 1, (25, 50, 75))
        fastest = [np.sort(taken)[: max(1, blocks // 4)].mean() for taken in (without, with_it)]
        print(
            f"{name}: a step of {1e3 * np.median(without) / EVERY:.2f} ms; watched "
            f"{median:+.1%} (half of {blocks} blocks from {low:+.1%} to {high:+.1%}; all together "
            f"{with_it.sum() / without.sum() - 1:+.1%}; the fastest quarters "
            f"{fastest[1] / fastest[0] - 1:+.1%}); in the callback "
            f"{np.median((inside - without_inside) / without):+.1%}.",
            flush=True,
        )


if __name__ == "__main__":
    main()
