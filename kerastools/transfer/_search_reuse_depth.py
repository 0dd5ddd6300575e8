"""How many layers of a trained model to reuse, and whether to freeze them."""

import math
from typing import Any

import keras
import numpy as np
from rich.progress import Progress

from kerastools._core._checks import require_finite
from kerastools._core._graph import Call, Graph, read_graph
from kerastools.transfer._cheap_scores import folds_of, log_me, probe
from kerastools.transfer._contestant import Contestant
from kerastools.transfer._cut import cuts, find_call
from kerastools.transfer._reuse_depth import CutScore, DepthResult, ReuseDepth, paired

_NAME = "search_reuse_depth"
# So many cuts are tried if the model has more.
_CUTS = 8


def search_reuse_depth(
    source: keras.Model,
    x: Any,
    y: Any,
    candidates: list[str] | None = None,
    epochs: int = 40,
    repeats: int = 5,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
    verbose: bool = True,
) -> ReuseDepth:
    """Finds how many lower layers of `source` to reuse for new classes, and whether frozen.

    The protocol of the first paper below trains every cut, frozen and tuned, to the end. This asks
    cheaply first:

    1. One forward pass computes the features of every cut; maps are averaged over their positions.
    2. Two scores that need no training rank the cuts: the cross-validated accuracy of a linear
       probe, and LogME. The better half goes on, each frozen and tuned.
    3. Successive halving on validation rows: all are trained for an eighth of `epochs`, the better
       half goes on to a quarter, the best to the end. Training from scratch is always among them,
       to the end.

    Every way is trained in each repeat, from other initial weights and on other rows, the same for
    all ways, so that differences are paired.

    What is searched is the source's own architecture: layers above the cut are drawn anew
    (`kerastools.calibration.initialize`) and train; the last layer that has weights, with what is
    above it, gives way to a new head. The choice saw the validation rows: measure the answer on
    others.

    Args:
        source: A trained functional or Sequential model; it is left alone.
        x: Inputs of the new task as `source` takes them.
        y: Integer classes, of shape (rows,).
        candidates: The layers to cut after: outermost layers through which everything goes. By
            default the last one before each layer that has weights, at most eight.
        epochs: For how long the best are trained, at least 8.
        repeats: How many splits of the rows, at least 2; each validates on one part in `repeats`.
        learning_rate: Adam's, for every way.
        batch_size: Rows per step.
        seed: Integer that fixes splits, initial weights and the order of the rows. Dropout draws by
            Keras's global seed.
        verbose: Whether to show a progress bar.

    Returns:
        A `ReuseDepth`; print it.

    Raises:
        TypeError: If `source` is not a `keras.Model`.
        ValueError: If it is not built or subclassed, a candidate is not found, there are fewer than
            two layers with weights, or `y` or a number is out of range.

    Example:

    >>> layers = [keras.layers.Dense(8, "relu", name=name) for name in ("a", "b", "classes")]
    >>> source = keras.Sequential([keras.Input((4,)), *layers])
    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> found = search_reuse_depth(source, x, x[:, 0] > 0, epochs=8, repeats=2, verbose=False)
    >>> [score.upto for score in found.scores]
    ['a', 'b']

    Reference: Yosinski, Clune, Bengio and Lipson, "How transferable are features in deep neural
    networks?", NeurIPS 2014; You, Liu, Wang and Long, "LogME", ICML 2021; Jamieson and Talwalkar,
    "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016.
    """
    graph = read_graph(source, _NAME)
    for name, number, least in (("epochs", epochs, 8), ("repeats", repeats, 2)):
        if int(number) != number or number < least:
            raise ValueError(f"{_NAME} needs {name} >= {least}, an integer. Received {number!r}.")
    labels = _classes(y, repeats)
    possible = _candidates(graph)
    top = possible[-1]
    if candidates is not None:
        possible = [find_call(graph, name, cuts(graph), _NAME) for name in candidates]
    elif len(possible) > _CUTS:
        possible = [possible[round(i)] for i in np.linspace(0, len(possible) - 1, _CUTS)]
    x = keras.tree.map_structure(np.asarray, x)

    folds = folds_of(labels, repeats, seed)
    scores = _scores(graph, possible, x, labels, folds)
    chosen = _better_half(scores)
    contest = Contest(x, labels, folds, batch_size, seed)
    settings = (int(labels.max()) + 1, learning_rate)
    ways = [Contestant(source, top, None, False, *settings)]
    for call, score in zip(possible, scores, strict=True):
        if score.upto in chosen:
            ways += [Contestant(source, top, call, frozen, *settings) for frozen in (True, False)]
    results = contest.halve(ways, epochs, verbose)
    everything = (2 * len(possible) + 1) * repeats * epochs
    return ReuseDepth(tuple(scores), results, contest.num_epochs, everything)


class Contest:
    """Trains ways to reuse a model on the same rows, and counts the epochs."""

    def __init__(
        self, x: Any, y: np.ndarray, folds: list[np.ndarray], batch_size: int, seed: int
    ) -> None:
        self.x, self.y, self.folds = x, y, folds
        self.batch_size, self.seed = batch_size, seed
        self.num_epochs = 0

    def train(self, way: Contestant, epochs: int) -> list[float]:
        """Trains every repeat of `way` up to `epochs`; returns its validation accuracies."""
        if epochs not in way.accuracies:
            found = []
            for repeat, held_out in enumerate(self.folds):
                train = np.setdiff1d(np.arange(len(self.y)), held_out)
                seed = self.seed * 1000 + repeat
                self.num_epochs += way.train(
                    repeat, epochs, self.x, self.y, train, self.batch_size, seed
                )
                found.append(way.accuracy(repeat, self.x, self.y, held_out))
            way.accuracies[epochs] = found
        return way.accuracies[epochs]

    def halve(self, ways: list[Contestant], epochs: int, verbose: bool) -> tuple[DepthResult, ...]:
        """Trains the better half of `ways` on and on; the first, from scratch, to the end."""
        scratch, left = ways[0], list(ways)
        rungs = sorted({math.ceil(epochs / 8), math.ceil(epochs / 4), epochs})
        with Progress(disable=not verbose, transient=True) as progress:
            for rung, budget in enumerate(rungs):
                task = progress.add_task(
                    f"{len(left)} ways, up to {budget} epochs", total=len(left)
                )
                for way in left:
                    self.train(way, budget)
                    progress.advance(task)
                left.sort(key=lambda way: -float(np.mean(way.accuracies[budget])))
                if rung < len(rungs) - 1:
                    keep = math.ceil(len(left) / 2) if rung < len(rungs) - 2 else 1
                    kept = left[:keep]
                    if scratch not in kept:
                        kept.append(scratch)
                    # Scratch alone would have nothing to be compared with.
                    left = kept if len(kept) > 1 else left[:2]
        best = left[0]
        order = sorted(ways, key=_longest_and_best)
        return tuple(_result(way, best) for way in order)


def _longest_and_best(way: Contestant) -> tuple[int, float]:
    epochs = max(way.accuracies)
    return -epochs, -float(np.mean(way.accuracies[epochs]))


def _result(way: Contestant, best: Contestant) -> DepthResult:
    epochs = max(way.accuracies)
    accuracies = way.accuracies[epochs]
    difference = None if way is best else paired(best.accuracies[epochs], accuracies)
    return DepthResult(way.upto, way.frozen, epochs, tuple(accuracies), difference)


def _classes(y: Any, repeats: int) -> np.ndarray:
    labels = require_finite("y", y, _NAME)
    if labels.dtype.kind == "b":
        labels = labels.astype("int64")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"{_NAME} needs y to be classes from 0 on, integers of shape (rows,). Received an "
            f"array of {labels.dtype} of shape {labels.shape}."
        )
    if len(labels) < 2 * repeats or len(np.unique(labels)) < 2:
        raise ValueError(
            f"{_NAME} needs two classes and two rows per repeat. Received {len(labels)} rows of "
            f"{len(np.unique(labels))} classes."
        )
    return labels


def _candidates(graph: Graph) -> list[Call]:
    """Returns for each layer with weights, but the last, the highest cut before the next one.

    A normalisation belongs to the layer under it.
    """
    weighted = [
        call
        for call in graph.calls
        if getattr(call.operation, "weights", None)
        and "Normalization" not in type(call.operation).__name__
    ]
    order = {id(c.node): i for i, c in enumerate(graph.calls)}
    found: dict[int, Call] = {}
    for cut in cuts(graph):
        below = sum(order[id(c.node)] <= order[id(cut.node)] for c in weighted)
        if 0 < below < len(weighted):
            found[below] = cut
    if not found:
        raise ValueError(
            f"{_NAME} needs a model with at least two layers that have weights, one after the "
            f'other. Received model "{graph.model.name}" with {len(weighted)}.'
        )
    return list(found.values())


def _scores(
    graph: Graph, calls: list[Call], x: Any, y: np.ndarray, folds: list[np.ndarray]
) -> list[CutScore]:
    extractor = keras.Model(graph.input_structure, [call.outputs[0] for call in calls])
    outputs = extractor.predict(x, verbose=0)
    scores = []
    for call, features in zip(calls, outputs if len(calls) > 1 else [outputs], strict=True):
        array = np.asarray(features)
        pooled = array.mean(axis=tuple(range(1, array.ndim - 1)), dtype="float64")
        scores.append(
            CutScore(call.operation.name, tuple(probe(pooled, y, folds)), log_me(pooled, y))
        )
    return scores


def _better_half(scores: list[CutScore]) -> set[str]:
    """Returns the cuts that stand highest in the mean of their two ranks."""
    by_probe = np.argsort(np.argsort([-np.mean(s.probe) for s in scores]))
    by_evidence = np.argsort(np.argsort([-s.log_me for s in scores]))
    order = np.argsort(by_probe + by_evidence, kind="stable")
    return {scores[i].upto for i in order[: math.ceil(len(scores) / 2)]}
