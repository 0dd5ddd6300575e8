"""`search_reuse_depth`: how many layers of a trained model to reuse, and whether to freeze them."""

import math
from typing import Any

import keras
import numpy as np

from kerastools._core.checks import require_array, require_at_least, require_finite
from kerastools._core.graph.calls import Call, Graph, read_graph
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.optimizer_hooks import num_replicas
from kerastools.transfer._depth.candidate import Candidate, SharedLayers
from kerastools.transfer._depth.cheap_scores import folds_of, log_me, probe
from kerastools.transfer._depth.cut import cuts, find_call
from kerastools.transfer._depth.reuse_depth import CutScore, ReuseDepth
from kerastools.transfer._depth.successive_halving import DepthHalving, results

_NAME = "search_reuse_depth"
# Maximum number of cuts that are tried.
_CUTS = 8
# Rows per call that computes features.
_BATCH = 256


def search_reuse_depth(
    model: keras.Model,
    x: Any,
    y: Any,
    candidates: list[str] | None = None,
    epochs: int = 40,
    repeats: int = 5,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    seed: int | None = None,
    verbose: bool = True,
) -> ReuseDepth:
    """Finds how many lower layers of `model` to reuse for new classes, and whether to freeze them.

    Successive halving over reuse depths. The protocol of the first paper below trains every cut,
    frozen and fine-tuned, to the end. This search uses cheap scores first:

    1. One forward pass computes the features of every cut; maps are averaged over positions.
    2. Two scores without training rank the cuts: the cross-validated accuracy of a linear probe,
       and LogME. The best third of the cuts, at least two, is fine-tuned.
    3. These candidates are trained for 0.35 of `epochs`. The best of them, and always training from
       scratch, is trained to the end.
    4. The probe measures the value of frozen features. If its accuracy is no lower than the best
       one so far, the best cut is also trained frozen: compared with the winner after 0.35 of
       `epochs` and, if better, trained to the end.

    Candidates are compared by accuracy − loss / 10 on validation rows, averaged over five epochs of
    the last two fifths of the training. Each repeat has its own initial weights and split of the
    rows, the same for all candidates, so that differences are paired.

    These constants were chosen by test accuracy on five transfers between digits (0-4, 5-9, even,
    odd, and from MNIST) with 50 labels, 24 draws each, none of them used in the benchmark. Few
    labels do not determine the best candidate: `benchmarks/transfer.py --depth` prints what is lost
    against the candidate that turns out best, for this search and for training every candidate.

    The architecture is that of the model. Layers above the cut get new weights
    (`kerastools.calibration.initialize`) and train; the last layer that has weights, and what is
    above it, is replaced by a new head. The search selects on its validation rows: evaluate its
    answer on others.

    Args:
        model: A trained functional or Sequential model, which is not changed.
        x: Inputs of the new task, as for `model`.
        y: Integer classes, of shape (rows,).
        candidates: Names of the layers to cut after: outermost layers through which everything
            goes. By default the last one before each layer that has weights, at most eight.
        epochs: Number of epochs of the best candidates, >= 8.
        repeats: Number of splits of the rows, >= 2; each validates on one fold of `repeats`.
        learning_rate: Learning rate of Adam.
        batch_size: Rows per step.
        seed: Integer that seeds splits, initial weights and the order of the rows; by default a
            new one each time. Dropout uses Keras's global seed.
        verbose: Whether to show a progress bar.

    Returns:
        A `ReuseDepth`, which prints as tables.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If it is not built or is subclassed, a candidate is not found, there are fewer
            than two layers with weights, or `y` or a number is out of range.

    Example:

    >>> layers = [keras.layers.Dense(8, "relu", name=name) for name in ("a", "b", "classes")]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> found = search_reuse_depth(model, x, x[:, 0] > 0, epochs=8, repeats=2, verbose=False)
    >>> [score.upto for score in found.scores]
    ['a', 'b']

    Reference: Yosinski, Clune, Bengio and Lipson, "How transferable are features in deep neural
    networks?", NeurIPS 2014; You, Liu, Wang and Long, "LogME", ICML 2021; Jamieson and Talwalkar,
    "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016.
    """
    graph = read_graph(model, _NAME)
    require_at_least(8, _NAME, epochs=epochs)
    require_at_least(2, _NAME, repeats=repeats)
    if num_replicas() > 1:
        raise ValueError(
            f"{_NAME} trains copies of single layers' weights on one device. Received a call in "
            "the scope of a tf.distribute strategy with replicas. Call it outside the scope."
        )
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    labels = _classes(y, repeats)
    possible = _candidates(graph)
    top = possible[-1]
    if candidates is not None:
        possible = [find_call(graph, name, cuts(graph), _NAME) for name in candidates]
    elif len(possible) > _CUTS:
        possible = [possible[round(i)] for i in np.linspace(0, len(possible) - 1, _CUTS)]
    x = keras.tree.map_structure(lambda a: require_array("x", a, _NAME), x)

    folds = folds_of(labels, repeats, seed)
    features = features_at(graph, possible, x)
    scores = [_score(c, f, labels, folds) for c, f in zip(possible, features, strict=True)]
    layers = SharedLayers(graph, top, int(labels.max()) + 1, learning_rate)
    halving = DepthHalving(labels, folds, epochs, batch_size, seed)
    shortlist = _shortlist(scores)
    scratch = Candidate(layers, None, False, x)
    tuned = [Candidate(layers, possible[i], False, x) for i in shortlist]
    trained = [scratch, *tuned]
    winner = halving.best(tuned, halving.first_rung, verbose)
    halving.best([scratch, winner], epochs, verbose)
    first = shortlist[0]
    if np.mean(scores[first].probe) >= results([scratch, winner])[0].mean_accuracy:
        frozen = Candidate(layers, possible[first], True, features[first])
        trained.append(frozen)
        if halving.best([winner, frozen], halving.first_rung, verbose) is frozen:
            halving.best([frozen], epochs, verbose)
    exhaustive = (2 * len(possible) + 1) * repeats * epochs
    return ReuseDepth(tuple(scores), results(trained), halving.num_epochs, exhaustive)


def _classes(y: Any, repeats: int) -> np.ndarray:
    labels = require_finite("y", y, _NAME)
    if labels.dtype.kind == "b":
        labels = labels.astype("int64")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"{_NAME} needs y to be classes >= 0, integers of shape (rows,). Received an "
            f"array of {labels.dtype} of shape {labels.shape}."
        )
    if len(labels) < 2 * repeats or len(np.unique(labels)) < 2:
        raise ValueError(
            f"{_NAME} needs two classes and two rows per repeat. Received {len(labels)} rows of "
            f"{len(np.unique(labels))} classes."
        )
    return labels


def _candidates(graph: Graph) -> list[Call]:
    """Returns for each layer with weights, except the last, the highest cut before the next one.

    A normalization layer belongs to the layer below it.
    """
    weighted = [
        call
        for call in graph.calls
        if getattr(call.operation, "weights", None) and not is_kind(call.operation, "normalization")
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


def features_at(graph: Graph, calls: list[Call], x: Any) -> list[np.ndarray]:
    """Returns the outputs of `calls` for `x`, computed in one pass."""
    extractor = keras.Model(graph.input_structure, [call.outputs[0] for call in calls])
    rows = len(keras.tree.flatten(x)[0])
    found: list[list[np.ndarray]] = [[] for _ in calls]
    for start in range(0, rows, _BATCH):
        # Eagerly, because tracing takes longer than these few calls.
        some = keras.tree.map_structure(lambda a, i=start: a[i : i + _BATCH], x)
        outputs = keras.tree.flatten(extractor(some, training=False))
        for parts, one in zip(found, outputs, strict=True):
            parts.append(keras.ops.convert_to_numpy(one))
    return [np.concatenate(parts) for parts in found]


def _score(call: Call, features: np.ndarray, y: np.ndarray, folds: list[np.ndarray]) -> CutScore:
    pooled = features.mean(axis=tuple(range(1, features.ndim - 1)), dtype="float64")
    return CutScore(call.operation.name, tuple(probe(pooled, y, folds)), log_me(pooled, y))


def _shortlist(scores: list[CutScore]) -> list[int]:
    """Returns the indices of the cuts that are best by the mean of their two ranks."""
    by_probe = np.argsort(np.argsort([-np.mean(s.probe) for s in scores]))
    by_evidence = np.argsort(np.argsort([-s.log_me for s in scores]))
    order = np.argsort(by_probe + by_evidence, kind="stable")
    return [int(i) for i in order[: max(math.ceil(len(scores) / 3), 2)]]
