"""What a layer makes of its input's second moment, ours beside Keras's; and what that does.

    python benchmarks/gains.py
    python benchmarks/gains.py --quick    # the table alone, with 2 seeds

The table: z ~ N(0, 1), x = relu(z), weights for relu from 8 seeds; E[y²] / E[z²] should be 1, for a
net of such layers multiplies it by itself. Transposed convolutions in the interior. Keras's weights
are those that the layer itself draws by `he_normal`.

Then a net of six depthwise-separable blocks of 64 channels without normalisation learns
scikit-learn's digits for six epochs, with Keras's `he_normal` and with `initialize`, whose
`same_padding=True` counts the fans on maps of 8 by 8 without the padding. All learn with the same
optimizer, momentum with the global norm of the gradient clipped to 1: without the clip a start that
is sound may be thrown back to chance by its first steps.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers, ops
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from kerastools.calibration import initialize
from kerastools.initializers import for_layer

ALL = np.s_[:]
RIM_1D, RIM = np.s_[:, 4:-4], np.s_[:, 6:-6, 6:-6]
# Name: (layer, shape of the input, the positions that are looked at).
KINDS = {
    "Dense": (lambda: layers.Dense(64), (64, 64), ALL),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 16)), (8, 8, 64), ALL),
    "EinsumDense per head": (
        lambda: layers.EinsumDense("abhc,hcd->abhd", (None, 8, 16)),
        (8, 8, 8, 16),
        ALL,
    ),
    "Conv1D": (lambda: layers.Conv1D(64, 5), (8, 20, 32), ALL),
    "Conv2D": (lambda: layers.Conv2D(32, 3), (4, 10, 10, 32), ALL),
    "Conv2D strided": (lambda: layers.Conv2D(32, 3, strides=2), (4, 16, 16, 32), ALL),
    "Conv2D dilated": (lambda: layers.Conv2D(32, 3, dilation_rate=2), (4, 10, 10, 32), ALL),
    "Conv2D 8 groups": (lambda: layers.Conv2D(64, 3, groups=8), (4, 10, 10, 64), ALL),
    "Conv3D": (lambda: layers.Conv3D(32, 3), (2, 6, 6, 6, 16), ALL),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(5), (8, 20, 64), ALL),
    "DepthwiseConv2D 16": (lambda: layers.DepthwiseConv2D(3), (8, 10, 10, 16), ALL),
    "DepthwiseConv2D 64": (lambda: layers.DepthwiseConv2D(3), (4, 10, 10, 64), ALL),
    "DepthwiseConv2D 256": (lambda: layers.DepthwiseConv2D(3), (2, 10, 10, 256), ALL),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(64, 5), (8, 20, 64), ALL),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(64, 3), (4, 10, 10, 64), ALL),
    "Conv1DTranspose": (
        lambda: layers.Conv1DTranspose(64, 4, strides=2),
        (8, 16, 64),
        RIM_1D,
    ),
    "Conv2DTranspose 64 to 32": (
        lambda: layers.Conv2DTranspose(32, 4, strides=2),
        (4, 12, 12, 64),
        RIM,
    ),
    "Conv2DTranspose 128 to 3": (
        lambda: layers.Conv2DTranspose(3, 4, strides=2),
        (4, 12, 12, 128),
        RIM,
    ),
    "Conv2DTranspose 5x5 by 3": (
        lambda: layers.Conv2DTranspose(32, 5, strides=3),
        (4, 10, 10, 64),
        RIM,
    ),
    "Conv3DTranspose": (
        lambda: layers.Conv3DTranspose(16, 2, strides=2),
        (2, 4, 4, 4, 32),
        ALL,
    ),
}


def gain(layer, shape, where, seed) -> float:
    """Returns E[y²] / E[z²] of a built layer."""
    z = np.random.default_rng(100 + seed).normal(size=shape).astype("float32")
    y = ops.convert_to_numpy(layer(np.maximum(z, 0))).astype("float64")
    return float((y[where] ** 2).mean() / (z.astype("float64") ** 2).mean())


def drawn_by_keras(make, shape, seed):
    """Returns the layer, built by Keras with `he_normal`."""
    layer = make()
    for part in ("kernel", "depthwise", "pointwise"):
        if hasattr(layer, f"{part}_initializer"):
            setattr(layer, f"{part}_initializer", keras.initializers.HeNormal(seed=seed))
    layer.build((None, *shape[1:]))
    return layer


def table(seeds: int, console: Console) -> None:
    shown = Table(
        "layer", "kerastools", "Keras he_normal", title=rf"E\[y²] / E\[z²], {seeds} seeds"
    )
    for name, (make, shape, where) in KINDS.items():
        ours, kerass = [], []
        for seed in range(seeds):
            layer = drawn_by_keras(make, shape, seed)
            kerass.append(gain(layer, shape, where, seed))
            for kernel, initializer in for_layer(layer, seed=seed, activation="relu").items():
                variable = getattr(layer, kernel)
                variable.assign(initializer(tuple(variable.shape)))
            ours.append(gain(layer, shape, where, seed))
        shown.add_row(name, f"{np.mean(ours):.3f}", f"{np.mean(kerass):.4g}")
    console.print(shown)


def depthwise_net(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    stack = [keras.Input((8, 8, 1)), layers.Conv2D(64, 3, padding="same", activation="relu")]
    for _ in range(6):
        for layer in (
            layers.DepthwiseConv2D(3, padding="same", depthwise_initializer="he_normal"),
            layers.Conv2D(64, 1, kernel_initializer="he_normal"),
        ):
            stack += [layer, layers.ReLU()]
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")]
    return keras.Sequential(stack)


def digits(seeds: int, console: Console) -> None:
    x, y = load_digits(return_X_y=True)
    x = ((x - x.mean()) / x.std()).astype("float32").reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    names = ("Keras he_normal", "initialize", "initialize, same_padding")
    scores: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(1, 1 + seeds):
        for name, accuracies in scores.items():
            model = depthwise_net(seed)
            if name != "Keras he_normal":
                initialize(model, "by_activation", seed=seed, same_padding="same" in name)
            model.compile(
                keras.optimizers.SGD(0.02, momentum=0.9, global_clipnorm=1.0),
                "sparse_categorical_crossentropy",
                metrics=["accuracy"],
            )
            history = model.fit(
                x[:1437], y[:1437], batch_size=32, epochs=6, verbose=0,
                validation_data=(x[1437:], y[1437:]),
            )  # fmt: skip
            accuracies.append(history.history["val_accuracy"][-1])
    for name, accuracies in scores.items():
        told = ", ".join(f"{a:.3f}" for a in accuracies)
        console.print(
            f"depthwise-separable net on digits, 6 epochs, {name}: {np.mean(accuracies):.3f} ± "
            f"{np.std(accuracies, ddof=1):.3f} over {seeds} seeds, least {min(accuracies):.3f} "
            f"({told})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, no training")
    quick = parser.parse_args().quick
    console = Console(highlight=False, width=100)
    table(2 if quick else 8, console)
    if not quick:
        digits(8, console)


if __name__ == "__main__":
    main()
