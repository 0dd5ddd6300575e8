"""Glorot and Bengio's picture, and He's: which weights let signals through a deep net.

    python examples/signals.py --output demo

Nine nets of 256 units per layer, no training, about 20 seconds. Expect:
- 10 logistic layers with N(0, 1) weights: pre-activation variance 90 to 150 in layers 2 to 10 where
  the input's is 1, and over 70 % of the units saturated. Glorot weights do not cure the logistic
  function: the gradient then vanishes, by five decades or more;
- 10 tanh layers: saturated with N(0, 1), healthy with Glorot (gradient ratio between 0.5 and 2);
- 50 ReLU layers: Glorot loses 0.301 decades of the signal per layer, He keeps it;
- 50 SiLU layers: He loses it too, since no gain is stable; calibrate(model, x) holds it at 1.
"""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from kerastools.calibration import calibrate, initialize
from kerastools.diagnosis import diagnose

matplotlib.use("agg")
import matplotlib.pyplot as plt

WIDTH = 256
NETS = {
    "sigmoid, N(0, 1)": ("sigmoid", 10, "standard normal"),
    "sigmoid, Glorot": ("sigmoid", 10, "glorot_normal"),
    "tanh, N(0, 1)": ("tanh", 10, "standard normal"),
    "tanh, Glorot": ("tanh", 10, "glorot_normal"),
    "ReLU, Glorot": ("relu", 50, "glorot_normal"),
    "ReLU, He": ("relu", 50, "he_normal"),
    "ReLU, N(0, 1)": ("relu", 50, "standard normal"),
    "SiLU, He": ("silu", 50, "he_normal"),
    "SiLU, calibrated": ("silu", 50, "calibrated"),
}


def net(activation: str, depth: int) -> keras.Model:
    """Linear layers with the activation behind each, so that both signals can be seen."""
    stack = [keras.Input((WIDTH,))]
    for i in range(depth):
        stack += [keras.layers.Dense(WIDTH, name=f"{i + 1}"), keras.layers.Activation(activation)]
    return keras.Sequential([*stack, keras.layers.Dense(10, "softmax", name="output")])


def weigh(model: keras.Model, how: str, x: np.ndarray, seed: int) -> None:
    """Draws the weights of `model`."""
    if how == "standard normal":
        rng = np.random.default_rng(seed)
        for variable in model.trainable_variables:
            if variable.name == "kernel":
                variable.assign(rng.normal(size=tuple(variable.shape)).astype("float32"))
    elif how == "calibrated":
        calibrate(initialize(model, seed=seed), x)
    else:
        initialize(model, how, seed)


def figures(diagnosis) -> tuple[str, ...]:
    """Returns what the table says of one net."""
    hidden = [s for s in diagnosis.signals if s.has_kernel and not s.is_output]
    after = [s.saturated for s in diagnosis.signals if s.saturated is not None]
    finite = [s for s in hidden if np.isfinite(s.variance)]
    later = [s.variance for s in finite[1:]]
    moments = np.log10([s.second_moment for s in finite])
    slope = np.polyfit(np.arange(len(moments)), moments, 1)[0]
    with np.errstate(all="ignore"):
        ratio = np.float64(hidden[0].gradient_mean) / hidden[-1].gradient_mean
    return (
        f"{min(later):.2g} to {max(later):.2g}",
        f"{slope:+.3f}",
        f"{np.median(after):.0%}" if after else "",
        f"{ratio:.2g}",
        ", ".join(f.rule for f in diagnosis.findings) or "nothing",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the picture")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    # initialize() says of SiLU what the table shows.
    warnings.filterwarnings("ignore", message=".*has no stable gain.*")
    rng = np.random.default_rng(arguments.seed)
    rows = 64 if arguments.quick else 256
    x, y = rng.normal(size=(rows, WIDTH)).astype("float32"), rng.integers(0, 10, rows)

    table = Table(
        *("net", "variance before φ", "decades/layer", "saturated", "|∂W₁|/|∂W_L|", "found")
    )
    figure, axes = plt.subplots(3, 3, figsize=(15, 11), layout="constrained")
    for axis, (name, (activation, depth, how)) in zip(axes.flat, NETS.items(), strict=True):
        model = net(activation, depth)
        weigh(model, how, x, arguments.seed)
        diagnosis = diagnose(model, x, y, "sparse_categorical_crossentropy", batch_size=rows)
        table.add_row(name, *figures(diagnosis))
        diagnosis.plot(axis)
        axis.set_title(name)
    figure.savefig(arguments.output / "signals_by_weights.png", dpi=100)
    Console(highlight=False, width=130).print(table)
    print(f"The picture is in {arguments.output / 'signals_by_weights.png'}.")


if __name__ == "__main__":
    main()
