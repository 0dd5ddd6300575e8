"""The main job, end to end, on scikit-learn's digits: from a deep net that fails to a served model.

    python examples/end_to_end.py --output demo

Diagnose, initialise, search, train, transfer, fold, export, serve. It needs about 210 seconds of
CPU time; Ctrl-C in the search keeps what is done. Expect a test accuracy of about 0.97 where the
net with Keras's defaults stays near chance, and a served model whose outputs differ by less than
1e-5.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import keras_tuner
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kerastools as kt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tuning/ stands beside examples/
from tuning import digits

matplotlib.use("agg")
import matplotlib.pyplot as plt

BATCH = 32
LOSS = "sparse_categorical_crossentropy"
console = Console(highlight=False)


def headline(text: str) -> None:
    console.rule(f"[bold]{text}", align="left")


# 1. Diagnose ------------------------------------------------------------------------------------


def plain_net(
    activation: str = "relu", initializer="glorot_uniform", bias="zeros", depth: int = 20
) -> keras.Model:
    """A deep dense classifier of plain Keras layers; by default with Keras's defaults."""
    model = keras.Sequential([keras.Input((64,))], name=f"{activation}_net")
    for i in range(1, depth + 1):
        model.add(
            keras.layers.Dense(
                100,
                activation=activation,
                kernel_initializer=initializer,
                bias_initializer=bias,
                name=f"hidden_{i}",
            )
        )
    model.add(keras.layers.Dense(10, activation="softmax", name="head"))
    model.compile(keras.optimizers.SGD(0.05), LOSS, metrics=["accuracy"])
    return model


def step_1_diagnose(data, epochs, depth):
    headline("1. A deep net that fails with Keras's defaults: what is wrong?")
    x, y = data["train"]
    keras.utils.set_random_seed(1)
    model = plain_net(depth=depth)
    diagnosis = kt.diagnosis.diagnose(model, x, y, batch_size=BATCH)
    print(diagnosis)
    start = model.get_weights()
    accuracy = train(model, data, epochs)
    model.set_weights(start)
    print(
        f"Trained for {epochs} epochs all the same: test accuracy {accuracy:.3f} (chance is 0.1).\n"
    )

    print("Three more ways to fail, and a trap in this very data set:")
    wide = keras.initializers.RandomNormal(stddev=1.0, seed=2)
    faulty = {
        "tanh, weights from N(0, 1)": plain_net("tanh", wide, depth=depth // 2),
        "relu, weights from N(0, 1)": plain_net("relu", wide, depth=depth // 2),
        "relu, biases of -3": plain_net(
            "relu", "he_normal", keras.initializers.Constant(-3.0), depth // 2
        ),
        f"batch norm, {len(x)} rows in batches of {BATCH}": kt.search.DeepDense(
            64, 10, depth=depth // 2, seed=0
        ).build(keras_tuner.HyperParameters()),
    }
    for name, net in faulty.items():
        print(f"\n{name}:")
        print(kt.diagnosis.diagnose(net, x, y, batch_size=BATCH))
    return model, diagnosis, accuracy


def train(model, data, epochs, **arguments) -> float:
    """Trains on whole batches only and returns the accuracy on the test rows."""
    x, y = data["train"]
    rows = len(x) // BATCH * BATCH  # The last 3 rows would ruin batch normalisation.
    model.fit(x[:rows], y[:rows], batch_size=BATCH, epochs=epochs, verbose=0, **arguments)
    return model.evaluate(*data["test"], verbose=0)[1]


# 2. Initialise ----------------------------------------------------------------------------------


def step_2_initialize(model, before, data, epochs, output):
    headline("2. Initialise every layer for its activation")
    kt.calibration.initialize(model, seed=1)
    after = kt.diagnosis.diagnose(model, *data["train"], batch_size=BATCH)
    print(after)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, diagnosis, title in zip(
        axes, (before, after), ("Keras's defaults", "after initialize(model)"), strict=True
    ):
        diagnosis.plot(axis)
        axis.set_title(title)
    figure.savefig(output / "signals.png", dpi=120)
    plt.close(figure)
    accuracy = train(model, data, epochs)
    print(f"The same {epochs} epochs now: test accuracy {accuracy:.3f}.\n")
    return accuracy


# 3. Search --------------------------------------------------------------------------------------


def step_3_search(output, trials, epochs, depth):
    headline("3. Search dropout rate, momentum γ and β₁/β₂ with keras-tuner")
    tuner = digits.search(output / "search", trials=trials, epochs=epochs, depth=depth)
    rows = digits.results(tuner)
    digits.plot(rows, output / "search.png")
    best = rows[0]
    print(
        "Best:", ", ".join(f"{k} {v:.4g}" if k != "optimizer" else v for k, v in best.items()), "\n"
    )
    return tuner.hypermodel, tuner.get_best_hyperparameters()[0], best


# 4. Train ---------------------------------------------------------------------------------------


class Anneal(keras.callbacks.Callback):
    """Lowers the learning rate and switches dropout off for the last fifth of the epochs.

    Both are live: the compiled step is not traced again.
    """

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.params["epochs"] * 4 // 5:
            optimizer = self.model.optimizer
            optimizer.learning_rate = float(optimizer.learning_rate) / 10
            for layer in self.model.layers:
                if isinstance(layer, kt.layers.Dropout):
                    layer.rate = 0.0


def step_4_train(hypermodel, hyperparameters, data, epochs):
    headline("4. Train with the best")
    model = hypermodel.build(hyperparameters)
    accuracy = train(model, data, epochs, callbacks=[Anneal()])
    largest = max(
        float(np.linalg.norm(layer.get_weights()[0], axis=0).max())
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense) and layer.kernel_constraint
    )
    print(
        f"{epochs} epochs, {model.optimizer.name}, whole batches: test accuracy {accuracy:.3f}. "
        f"Largest norm of a unit's weights: {largest:.3f}, bound {hypermodel.max_norm}.\n"
    )
    return model, accuracy


# 5. Transfer ------------------------------------------------------------------------------------

REUSED = 2  # hidden layers
NEW = r"(hidden|norm)_[34]|head"  # what comes above them


def small_net(lower: keras.Model | None = None, seed: int = 0) -> keras.Model:
    """A classifier of five classes with four hidden layers, the lower ones given or all new."""
    x = lower.outputs[0] if lower else keras.Input((64,))
    inputs = lower.inputs if lower else x
    for i in range(REUSED + 1 if lower else 1, 5):
        x = keras.layers.Dense(100, use_bias=False, name=f"hidden_{i}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{i}")(x)
        x = keras.layers.Activation("elu", name=f"activation_{i}")(x)
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="head")(x))
    if not lower:
        kt.calibration.initialize(model, seed=seed)
    model.compile(kt.optimizers.Adam(2e-3), LOSS, metrics=["accuracy"])
    return model


def of_classes(rows, low):
    x, y = rows
    chosen = (low <= y) & (y < low + 5)
    return x[chosen], y[chosen] - low


def step_5_transfer(data, output, seeds, per_class, epochs):
    headline("5. Transfer: pretrain on digits 0-4, reuse for 5-9 with few labels")
    x, y = of_classes(data["train"], 5)
    test = of_classes(data["test"], 5)
    pretraining = of_classes(data["train"], 0)
    rows = len(pretraining[0]) // BATCH * BATCH
    scores = {"transfer": [], "from scratch": [], "logistic regression": []}
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        few = np.concatenate(
            [rng.permutation(np.flatnonzero(y == c))[:per_class] for c in range(5)]
        )
        few_x, few_y = x[few], y[few]

        source = small_net(seed=seed)
        source.fit(*(part[:rows] for part in pretraining), batch_size=BATCH, epochs=8, verbose=0)
        reused = small_net(kt.transfer.reuse_layers(source, upto=f"activation_{REUSED}"))
        schedule = kt.callbacks.FreezeSchedule(
            [
                kt.callbacks.Phase(NEW, epochs=epochs // 2),
                kt.callbacks.Phase("all", lr_multiplier=0.3),
            ],
            batch_norm="inference",
        )
        fit = {"batch_size": 10, "epochs": epochs, "verbose": 0, "validation_data": test}
        transfer = reused.fit(few_x, few_y, callbacks=[schedule], **fit).history
        scratch = small_net(seed=seed).fit(few_x, few_y, **fit).history
        logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        scores["transfer"].append(transfer["val_accuracy"][-1])
        scores["from scratch"].append(scratch["val_accuracy"][-1])
        scores["logistic regression"].append(logistic.fit(few_x, few_y).score(*test))
        print(
            f"  seed {seed}:", "  ".join(f"{k} {v[-1]:.3f}" for k, v in scores.items()), flush=True
        )
        if seed == 0:
            plot_transfer(transfer, scratch, scores, epochs // 2, output / "transfer.png")
    difference = np.subtract(scores["transfer"], scores["from scratch"])
    print(
        f"  transfer minus scratch, paired: {difference.mean():+.3f} "
        f"(sd {difference.std(ddof=1):.3f}, {seeds} seeds)\n"
    )
    return {name: (np.mean(v), np.std(v, ddof=1)) for name, v in scores.items()}


def plot_transfer(transfer, scratch, scores, switch, path):
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    epochs = np.arange(1, len(transfer["val_accuracy"]) + 1)
    axis.plot(epochs, transfer["val_accuracy"], label="transfer")
    axis.plot(epochs, scratch["val_accuracy"], label="from scratch")
    axis.axhline(
        scores["logistic regression"][0], color="gray", ls=":", label="logistic regression"
    )
    axis.axvspan(0.5, switch + 0.5, color="tab:blue", alpha=0.08)
    above = axis.get_xaxis_transform()
    axis.text(0.5, 1.02, "phase 1: new layers train", transform=above)
    axis.text(switch + 0.5, 1.02, "phase 2: all layers train", transform=above)
    axis.axvline(switch + 0.5, color="tab:blue", lw=0.8)
    axis.set(xlim=(0.5, epochs[-1] + 0.5), xlabel="epoch", ylabel="test accuracy, digits 5-9")
    figure.suptitle("One seed of the transfer from digits 0-4 to 5-9")
    axis.grid(alpha=0.3)
    axis.legend(loc="center right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


# 6. Fold, export, serve -------------------------------------------------------------------------

SERVE = """
import json, sys, time
import numpy as np, tensorflow as tf
folder = sys.argv[1]
x = np.load(folder + "/x.npy")
served = {name: tf.saved_model.load(path) for name, path in json.loads(sys.argv[2]).items()}
call = {}
for name, model in served.items():
    signature = model.signatures["serving_default"]
    (key,) = signature.structured_input_signature[1]
    call[name] = lambda rows, f=signature, k=key: next(iter(f(**{k: tf.constant(rows)}).values()))
    np.save(f"{folder}/{name}.npy", call[name](x).numpy())
seconds = {name: [] for name in call}
for _ in range(int(sys.argv[3])):
    for name, f in call.items():
        start = time.process_time()
        f(x[:1])
        seconds[name].append(time.process_time() - start)
assert "kerastools" not in sys.modules
print(json.dumps({k: [1e3 * q for q in np.quantile(v, [0.25, 0.5, 0.75])]
                  for k, v in seconds.items()}))
"""


def step_6_serve(model, data, output, calls):
    headline("6. Fold batch normalisation, export, serve in a fresh process")
    folded = kt.folding.fold_batch_norm(model)
    report = kt.export.export_savedmodel(
        model, output / "serving" / "digits", overwrite=True, version=1
    )
    print(report)
    model.export(output / "serving" / "plain", verbose=False)
    x = data["test"][0]
    np.save(output / "serving" / "x.npy", x)
    paths = {
        "kerastools": str(output / "serving" / "digits" / "1"),
        "plain": str(output / "serving" / "plain"),
    }
    run = subprocess.run(
        [sys.executable, "-c", SERVE, str(output / "serving"), json.dumps(paths), str(calls)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    measured = json.loads(run.stdout.splitlines()[-1])
    expected = model.predict(x, verbose=0)
    difference = float(np.abs(np.load(output / "serving" / "kerastools.npy") - expected).max())
    low, ours, high = measured["kerastools"]
    _, plain, _ = measured["plain"]
    print(
        f"Layers: {len(model.layers)} before folding, {len(folded.layers)} after.\n"
        "Served in a fresh process without kerastools; largest difference to the trained model "
        f"{difference:.1e}.\n"
        f"One row takes {ours:.3f} ms of CPU (quartiles {low:.3f} to {high:.3f}), a plain "
        f"model.export {plain:.3f} ms: {plain / ours:.2f} times faster.\n"
    )
    figure, axis = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
    names = {"plain": "model.export", "kerastools": "folded, frozen"}
    middle = [measured[name][1] for name in names]
    spread = [
        [m - measured[name][0] for name, m in zip(names, middle, strict=True)],
        [measured[name][2] - m for name, m in zip(names, middle, strict=True)],
    ]
    bars = axis.barh(list(names.values()), middle, xerr=spread, color=["lightgray", "tab:blue"])
    axis.bar_label(bars, [f" {m:.2f} ms" for m in middle], padding=6)
    axis.set(
        xlabel="CPU milliseconds a call, one row (median, quartiles)", xlim=(0, max(middle) * 1.3)
    )
    axis.set_title("Serving through serving_default")
    figure.savefig(output / "latency.png", dpi=120)
    plt.close(figure)
    return difference, plain / ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for pictures")
    parser.add_argument("--quick", action="store_true", help="little data, to see that it runs")
    arguments = parser.parse_args()
    output, quick = arguments.output, arguments.quick
    (output / "serving").mkdir(parents=True, exist_ok=True)
    data = digits.digits()
    started = time.perf_counter()

    net, diagnosis, failed = step_1_diagnose(data, 1 if quick else 5, 6 if quick else 20)
    mended = step_2_initialize(net, diagnosis, data, 1 if quick else 5, output)
    hypermodel, hyperparameters, best = step_3_search(
        output, trials=2 if quick else 6, epochs=1 if quick else 10, depth=2 if quick else 8
    )
    model, accuracy = step_4_train(hypermodel, hyperparameters, data, epochs=1 if quick else 25)
    transfer = step_5_transfer(
        data, output, seeds=2 if quick else 5, per_class=10, epochs=2 if quick else 30
    )
    difference, ratio = step_6_serve(model, data, output, calls=20 if quick else 400)

    headline("7. Summary")
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    for what, figure in [
        ("test accuracy, 20 layers, Keras's defaults", f"{failed:.3f}"),
        ("the same after initialize(model)", f"{mended:.3f}"),
        ("best validation accuracy of the search", f"{best['score']:.3f}"),
        ("test accuracy, trained with the best", f"{accuracy:.3f}"),
        *(
            (f"digits 5-9 from 50 labels, {k}", f"{m:.3f} ± {s:.3f}")
            for k, (m, s) in transfer.items()
        ),
        ("largest difference, served to trained", f"{difference:.1e}"),
        ("served, times faster than model.export", f"{ratio:.2f}"),
        ("minutes", f"{(time.perf_counter() - started) / 60:.1f}"),
    ]:
        table.add_row(what, figure)
    console.print(table)
    print(f"\nPictures: {', '.join(sorted(str(p) for p in output.glob('*.png')))}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. Finished trials of the search are kept; start again to go on.")
