"""What freezing, cached features and phase changes cost, against Keras's own ways.

    python benchmarks/transfer.py [--quick] [--rounds 5] [--output benchmarks/results/transfer.json]

CPU time, which other programs on the machine disturb little; the contestants take turns, and a
ratio is made in every round. Printed are medians, with the smallest and the largest ratio, and each
figure is written to the output as soon as it is known. On MobileNetV2 for 96 × 96 pixels, with
calibrated statistics (random weights give dead features, on which equal losses prove nothing):

1. a step that trains only the head, against one that trains all layers;
2. 5 and 20 epochs of the head, `model.fit` against `FeatureCache.fit`, with the cache cold (the
   features are computed first) and warm; and the largest difference between the losses;
3. a phase change in the middle of a run, `FreezeSchedule` against compiling with a new optimizer:
   time of the epoch that follows, and how the loss jumps on it.

Expect, over 3 rounds on TensorFlow (results/transfer.json): a step of the head 0.22 of a full one;
5 epochs 3.2 times faster with the cache cold and 29 times warm, 20 epochs 9.1 and 38 times, the
losses equal to the bit; the epoch after a phase change 1.7 times cheaper, with no jump of the loss.

With --depth, on the digits 0-4 to 5-9 instead: `search_reuse_depth` against training every cut,
frozen and tuned, to the end, on the same shared layers and compiled steps: its cost, and its regret
over 5 seeds. Regret is against the one of 13 ways that turned out best on the test rows, which
nobody can know from 50 labels; beside it stands that of choosing by the validation accuracy of all
13 after their last epoch. KERAS_BACKEND=jax runs it on JAX. Expect 4.5 times less CPU time (3.7 to
4.6; a fifth of the epochs) and a mean regret of 0.39 points (0, 0.78, 0, 1.18, 0), where training
all and choosing by validation has 0.86.

Rows that a run does not measure stay in the output as they are.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from kerastools._core.graph.calls import Graph
from kerastools._core.table import format_table
from kerastools.callbacks import FreezeSchedule, Phase
from kerastools.folding import recalibrate_batch_norm
from kerastools.transfer import FeatureCache, search_reuse_depth
from kerastools.transfer._depth.candidate import Candidate, SharedLayers
from kerastools.transfer._depth.cheap_scores import folds_of
from kerastools.transfer._depth.search_reuse_depth import _candidates, features_at

CLASSES = 10


class Figures:
    """Rows of a table, written as they come."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.kept = json.loads(path.read_text()) if path is not None and path.exists() else {}
        self.rows: dict[str, dict] = {}

    def add(self, name: str, theirs: list[float], ours: list[float], unit: str) -> None:
        ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
        self.rows[name] = {
            "theirs": statistics.median(theirs),
            "ours": statistics.median(ours),
            "ratio": statistics.median(ratios),
            "smallest": min(ratios),
            "largest": max(ratios),
            "rounds": len(ratios),
            "unit": unit,
            "backend": keras.backend.backend(),
        }
        row = self.rows[name]
        print(
            f"{name}: {row['theirs']:.4g} {unit} against {row['ours']:.4g}, ratio "
            f"{row['ratio']:.2f} ({row['smallest']:.2f} to {row['largest']:.2f})",
            flush=True,
        )
        self.write()

    def note(self, name: str, **values: object) -> None:
        self.rows[name] = values
        print(name, values, flush=True)
        self.write()

    def write(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.kept | self.rows, indent=1) + "\n")


def mobile_net(seed: int = 0, x: np.ndarray | None = None) -> keras.Model:
    keras.utils.set_random_seed(seed)
    trunk = keras.applications.MobileNetV2((96, 96, 3), include_top=False, weights=None)
    if x is not None:
        recalibrate_batch_norm(trunk, x, batch_size=64)
    y = keras.layers.GlobalAveragePooling2D(name="pool")(trunk.output)
    model = keras.Model(trunk.input, keras.layers.Dense(CLASSES, name="head")(y))
    compile_anew(model)
    return model


def compile_anew(model: keras.Model) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)


def freeze_trunk(model: keras.Model) -> None:
    for layer in model.layers[:-1]:
        layer.trainable = False


def images(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random images, whose class is the brightest of ten places."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, CLASSES, rows)
    x = rng.normal(size=(rows, 12, 12, 3))
    x[np.arange(rows), y, y] += 3.0
    return np.kron(x, np.ones((1, 8, 8, 1))).astype("float32"), y


def cpu(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def head_only(figures: Figures, rounds: int, x: np.ndarray, y: np.ndarray) -> None:
    full, head = mobile_net(), mobile_net()
    freeze_trunk(head)
    compile_anew(head)
    times: list[list[float]] = [[], []]
    fit = {"batch_size": 16, "verbose": 0}
    for model in (full, head):
        model.fit(x[:32], y[:32], **fit)
    for _ in range(rounds):
        for model, found in zip((full, head), times, strict=True):
            found.append(cpu(lambda m=model: m.fit(x[:128], y[:128], **fit)) / 8)
    figures.add("step: all layers, head only", *times, "s")
    share = [b / a for a, b in zip(*times, strict=True)]
    figures.note("head-only step, as a share of a full one", median=statistics.median(share))


def caching(figures: Figures, rounds: int, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    plain, cold, warm, gaps = [], [], [], []
    for seed in range(rounds):
        fit = {"epochs": epochs, "batch_size": 32, "shuffle": False, "verbose": 0}
        model, twin = mobile_net(seed, x[:256]), mobile_net(seed, x[:256])
        for one in (model, twin):
            freeze_trunk(one)
        cache = FeatureCache(twin)
        histories = []
        plain.append(cpu(lambda m=model, f=fit, h=histories: h.append(m.fit(x, y, **f))))
        cold.append(cpu(lambda c=cache, f=fit, h=histories: h.append(c.fit(x, y, **f))))
        warm.append(cpu(lambda c=cache, f=fit: c.fit(x, y, **f)))
        a, b = (np.array(h.history["loss"]) for h in histories)
        gaps.append(float(np.abs(a - b).max()))
        deviation = float(cache.features(x, verbose=0).std())
        keras.backend.clear_session()
        done = {"rounds": seed + 1, "losses": [float(a[0]), float(a[-1])]}
        figures.add(f"{epochs} epochs of the head: fit, cache cold", plain, cold, "s")
        figures.add(f"{epochs} epochs of the head: fit, cache warm", plain, warm, "s")
        figures.note(
            f"{epochs} epochs: largest difference of losses",
            difference=max(gaps),
            feature_deviation=deviation,
            **done,
        )


class EpochTimes(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.seconds, self.losses = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.process_time() - self.start)


def transition(figures: Figures, rounds: int, x: np.ndarray, y: np.ndarray) -> None:
    """The second phase trains the head and the top block; one epoch before, one after."""
    theirs, ours, jumps = [], [], {"recompile": [], "schedule": []}
    upper = "Conv_1|Conv_1_bn|head"
    for seed in range(rounds):
        fit = {"batch_size": 32, "shuffle": False, "verbose": 0}
        model, twin = mobile_net(seed, x[:256]), mobile_net(seed, x[:256])
        freeze_trunk(model)
        compile_anew(model)
        times = EpochTimes()
        model.fit(x, y, epochs=3, callbacks=[times], **fit)
        before = times.losses[-1]

        def recompile(m=model, t=times, f=fit):
            for name in ("Conv_1", "Conv_1_bn"):
                m.get_layer(name).trainable = True
            compile_anew(m)
            m.fit(x, y, callbacks=[t], **f)

        theirs.append(cpu(recompile))
        # Keras shows the mean of the epoch so far; its first value is the first batch's own.
        jumps["recompile"].append([before, *times.losses[:4]])

        times = EpochTimes()
        schedule = FreezeSchedule([Phase("head", epochs=3), Phase(upper)])
        begins: list[float] = []
        begin = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs, b=begins: b.append(time.process_time())
        )
        twin.fit(x, y, epochs=4, callbacks=[begin, schedule, times], **fit)
        ours.append(time.process_time() - begins[3])
        steps = len(times.losses) // 4
        jumps["schedule"].append([times.losses[3 * steps - 1], *times.losses[3 * steps :][:4]])
        keras.backend.clear_session()
        figures.add("epoch after a phase change: recompile, schedule", theirs, ours, "s")
        figures.note(
            "loss before, and running mean over 1 to 4 steps after",
            **{name: np.mean(values, 0).round(4).tolist() for name, values in jumps.items()},
        )


def depth_search(figures: Figures, seeds: Iterable[int], epochs: int) -> None:
    """Digits 0-4 to 5-9 with 50 labels, six hidden layers; the regret on the 846 other rows."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x, y = (data.data / 16).astype("float32"), data.target.astype("int64")
    settings = {"learning_rate": 2e-3, "batch_size": 16, "seed": 0, "verbose": False}
    ours, theirs, shares, answers = [], [], [], []
    regrets, exhaustive_regrets, gains = [], [], []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        hidden = [keras.layers.Dense(64, "relu", name=f"hidden_{i}") for i in range(1, 7)]
        source = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(5)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        source.compile(keras.optimizers.Adam(1e-3), loss)
        source.fit(x[y < 5], y[y < 5], epochs=20, verbose=0)
        few_x, test_x, few_y, test_y = train_test_split(
            x[y >= 5], y[y >= 5] - 5, train_size=50, stratify=y[y >= 5], random_state=seed
        )
        few = (few_x, few_y)

        def search(source=source, few=few):
            answers.append(search_reuse_depth(source, *few, epochs=epochs, **settings))

        ours.append(cpu(search))
        found: dict[tuple, Candidate] = {}

        def exhaust(source=source, found=found, few=few):
            graph = Graph(source)
            calls = _candidates(graph)
            features = features_at(graph, calls, few[0])
            layers = SharedLayers(graph, calls[-1], 5, settings["learning_rate"])
            candidates = [Candidate(layers, None, False, few[0])]
            for call, inputs in zip(calls, features, strict=True):
                candidates.append(Candidate(layers, call, True, inputs))
                candidates.append(Candidate(layers, call, False, few[0]))
            for candidate in candidates:
                found[candidate.upto, candidate.frozen] = candidate
                for repeat, held_out in enumerate(folds_of(few[1], 5, 0)):
                    train = np.setdiff1d(np.arange(len(few[1])), held_out)
                    rows = (few[1], train, settings["batch_size"], repeat, held_out)
                    candidate.train(repeat, epochs, *rows, at={epochs})

        theirs.append(cpu(exhaust))
        graph = Graph(source)
        calls = _candidates(graph)
        inputs = {
            (call.operation.name, True): features
            for call, features in zip(calls, features_at(graph, calls, test_x), strict=True)
        }
        rows = np.arange(len(test_y))
        test, validation = {}, {}
        for key, candidate in found.items():
            x = inputs.get(key, test_x)
            results = [candidate.evaluate(k, test_y, rows, x) for k in range(5)]
            test[key] = 100 * np.mean([result.accuracy for result in results])
            accuracy, loss = np.mean(list(candidate.results[epochs].values()), 0)
            validation[key] = (accuracy, -loss)
        answer = answers[-1]
        best, chosen = max(test.values()), test[answer.upto, answer.frozen]
        shares.append(answer.num_epochs / answer.exhaustive_epochs)
        regrets.append(best - chosen)
        exhaustive_regrets.append(best - test[max(validation, key=validation.get)])
        gains.append(chosen - test[None, False])
        figures.add("depth: all ways, search", theirs, ours, "s")
        figures.note(
            "depth: regret against the way that did best on the test rows, points",
            regrets=[round(float(r), 2) for r in regrets],
            mean=round(float(np.mean(regrets)), 2),
            of_training_all_ways=[round(float(r), 2) for r in exhaustive_regrets],
            mean_of_training_all_ways=round(float(np.mean(exhaustive_regrets)), 2),
            gain_on_scratch=[round(float(g), 2) for g in gains],
            share_of_epochs=round(float(np.mean(shares)), 3),
            chosen=[[a.upto, a.frozen] for a in answers],
        )
        keras.backend.clear_session()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round on little data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--depth", action="store_true", help="the depth search and nothing else")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    x, y = images(128 if options.quick else 1000)
    figures = Figures(options.output)
    if options.depth:
        depth_search(figures, range(1 if options.quick else 5), 8 if options.quick else 40)
        return
    head_only(figures, rounds, x, y)
    caching(figures, rounds, x, y, epochs=5)
    transition(figures, rounds, x[:320], y[:320])
    caching(figures, 1 if options.quick else min(rounds, 3), x, y, epochs=20)
    names = ("what", "Keras", "kerastools", "ratio", "from", "to")
    keys = ("theirs", "ours", "ratio", "smallest", "largest")
    rows = [(n, *(row[k] for k in keys)) for n, row in figures.rows.items() if "ratio" in row]
    print(format_table(names, rows))


if __name__ == "__main__":
    main()
