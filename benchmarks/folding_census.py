"""Counts, for the architectures of keras.applications, how many batch norms fold.

Usage: python benchmarks/folding_census.py [NAME ...] [--all] [--results FILE]

Builds each architecture with random weights for images of 96×96, folds it, and prints a line per
architecture: batch norms, how many fold, how many follow a convolution or a concatenation of
convolutions (counted once by another program), and how far the folded network's logits are from the
original's, relative to the largest. All in float64, so that any mistake stands out from rounding.
By default a few that differ; half a minute each on two cores, a quarter of an hour for all. With
--results each line is appended to a CSV file as it comes, and a run that was cut goes on
where it stopped. A run of all is kept in benchmarks/results/folding_census.txt.
"""

import argparse
import csv
import time
from pathlib import Path

import keras
import numpy as np

from kerastools._core.table import format_table
from kerastools.folding import fold_batch_norm

# Batch norms, and how many of them follow a convolution or a concatenation of convolutions.
EXPECTED = {
    "ResNet50": (53, 53),
    "ResNet101": (104, 104),
    "ResNet152": (155, 155),
    "ResNet50V2": (49, 32),
    "ResNet101V2": (100, 66),
    "ResNet152V2": (151, 100),
    "DenseNet121": (121, 59),
    "DenseNet169": (169, 83),
    "DenseNet201": (201, 99),
    "EfficientNetB0": (49, 49),
    "EfficientNetB1": (69, 69),
    "EfficientNetB2": (69, 69),
    "EfficientNetB3": (78, 78),
    "EfficientNetB4": (96, 96),
    "EfficientNetB5": (116, 116),
    "EfficientNetB6": (134, 134),
    "EfficientNetB7": (163, 163),
    "EfficientNetV2B0": (59, 59),
    "EfficientNetV2B1": (73, 73),
    "EfficientNetV2B2": (76, 76),
    "EfficientNetV2B3": (88, 88),
    "EfficientNetV2S": (110, 110),
    "EfficientNetV2M": (157, 157),
    "EfficientNetV2L": (217, 217),
    "MobileNet": (27, 27),
    "MobileNetV2": (52, 52),
    "MobileNetV3Small": (34, 34),
    "MobileNetV3Large": (46, 46),
    "InceptionV3": (94, 94),
    "InceptionResNetV2": (204, 204),
    "Xception": (40, 40),
    "NASNetMobile": (192, 192),
    "NASNetLarge": (264, 264),
}
TOLERANCE = 1e-6
DEFAULT = ["MobileNetV2", "ResNet50V2", "DenseNet121", "NASNetMobile"]


def randomise(model: keras.Model) -> None:
    """Gives the batch norms statistics and scales of mixed sign that are not those of a new one."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(scale=0.1, size=shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))
            if layer.scale:
                layer.gamma.assign(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape))


def census(name: str) -> tuple[object, ...]:
    """Returns one line of the table."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float64")
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(96, 96, 3), classifier_activation=None)
    randomise(model)
    start = time.process_time()
    folded, report = fold_batch_norm(model, return_report=True)
    seconds = time.process_time() - start
    x = np.random.default_rng(1).normal(size=(1, *model.input_shape[1:]))
    want, got = (keras.ops.convert_to_numpy(m(x, training=False)) for m in (model, folded))
    difference = float(np.abs(want - got).max() / np.abs(want).max())
    total = report.num_folded + report.num_kept
    return name, total, report.num_folded, EXPECTED[name][1], difference, seconds


def read(results: Path | None) -> dict[str, tuple[object, ...]]:
    """Returns the lines that an earlier run has written."""
    if results is None or not results.exists():
        return {}
    with results.open() as file:
        return {
            name: (name, int(total), int(folded), int(foldable), float(difference), float(seconds))
            for name, total, folded, foldable, difference, seconds in csv.reader(file)
        }


def main() -> None:
    """Prints the table, and whether every architecture folded as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"by default {', '.join(DEFAULT)}")
    parser.add_argument("--all", action="store_true", help=f"all {len(EXPECTED)} architectures")
    parser.add_argument("--results", type=Path, help="CSV file to append to and go on from")
    options = parser.parse_args()
    names = list(EXPECTED) if options.all else options.names or DEFAULT
    done = read(options.results)
    for name in names:
        if name not in done:
            done[name] = census(name)
            if options.results:
                with options.results.open("a") as file:
                    csv.writer(file).writerow(done[name])
        print(f"{name}: {done[name][2]} of {done[name][1]}", flush=True)
    rows = [done[name] for name in names]
    columns = ("architecture", "batch norms", "folded", "foldable", "difference", "seconds")
    total = ("all", *(sum(row[i] for row in rows) for i in (1, 2, 3)), "", "")
    print(format_table(columns, [*rows, total]))
    missed = [r[0] for r in rows if r[1:3] != EXPECTED[r[0]] or not r[4] <= TOLERANCE]
    print(
        "Not as expected: " + ", ".join(missed)
        if missed
        else f"All as expected, equal to {TOLERANCE}."
    )


if __name__ == "__main__":
    main()
