"""`search_reuse_depth`: cheap scores by their equations, and an answer that is known beforehand."""

from itertools import product

import keras
import numpy as np
import pytest

from kerastools._core.graph.calls import Graph
from kerastools.transfer import reuse_layers, search_reuse_depth
from kerastools.transfer._depth.candidate import Candidate, EvalResult, SharedLayers
from kerastools.transfer._depth.cheap_scores import folds_of, log_me, probe
from kerastools.transfer._depth.reuse_depth import paired
from kerastools.transfer._depth.search_reuse_depth import _candidates, features_at
from kerastools.transfer._depth.successive_halving import DepthHalving, checkpoints, results

RNG = np.random.default_rng(0)


def evidence(features, target, alpha, beta):
    """log N(target | 0, 1/β + F Fᵀ/α), from the definition."""
    n = len(target)
    covariance = np.eye(n) / beta + features @ features.T / alpha
    _, log_det = np.linalg.slogdet(covariance)
    fit = target @ np.linalg.solve(covariance, target)
    return -(log_det + fit + n * np.log(2 * np.pi)) / (2 * n)


@pytest.mark.parametrize("shape", [(40, 5), (20, 30)])
def test_log_me_is_the_maximum_of_the_evidence(shape):
    features = RNG.normal(size=shape)
    y = (features[:, 0] + RNG.normal(size=shape[0]) > 0).astype(int)
    grid = np.exp(np.linspace(-4, 6, 101))
    best = [
        max(evidence(features, (y == k).astype(float), a, b) for a, b in product(grid, grid[40:80]))
        for k in (0, 1)
    ]
    assert log_me(features, y) == pytest.approx(np.mean(best), abs=2e-3)
    assert log_me(features, y) >= np.mean(best) - 1e-9


def test_the_probe_is_a_ridge_classifier():
    features = RNG.normal(size=(60, 4))
    y = (features @ RNG.normal(size=(4, 3))).argmax(1)
    folds = folds_of(y, 3, seed=0)
    assert sorted(np.concatenate(folds)) == list(range(60))
    for k in range(3):
        counts = [(y[rows] == k).sum() for rows in folds]
        assert max(counts) - min(counts) <= 1
    expected = []
    for rows in folds:  # Penalty by penalty, from the normal equations.
        train = np.setdiff1d(np.arange(60), rows)
        a = (features - features[train].mean(0)) / features[train].std(0)
        t = 2 * np.eye(3)[y] - 1
        m = t[train].mean(0)
        expected.append([])
        for penalty in 10.0 ** np.arange(-4, 3):
            gram = a[train].T @ a[train] + penalty * len(train) * np.eye(4)
            w = np.linalg.solve(gram, a[train].T @ (t[train] - m))
            expected[-1].append(((a[rows] @ w + m).argmax(1) == y[rows]).mean())
    best = np.mean(expected, 0).argmax()
    assert probe(features, y, folds) == pytest.approx([e[best] for e in expected])


def test_paired_differences_have_students_interval():
    scipy = pytest.importorskip("scipy.stats")
    for n in (2, 5, 11):
        a, b = RNG.normal(size=(2, n))
        mean, width = paired(list(a), list(b))
        low, high = scipy.ttest_rel(a, b).confidence_interval(0.95)
        assert (mean - width, mean + width) == pytest.approx((low, high), rel=1e-3)


def make_source():
    """Its first layer is all that the new task needs; its second has forgotten it."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(8, name="good"),
        keras.layers.ReLU(name="relu"),
        keras.layers.Dense(8, "relu", name="useless"),
        keras.layers.Dense(3, name="classes"),
    ]
    source = keras.Sequential([keras.Input((20,)), *layers])
    direction = np.random.default_rng(5).normal(size=(20, 1))
    good, useless = (source.get_layer(name) for name in ("good", "useless"))
    good.kernel.assign(direction @ np.array([[1.0, -1, 1, -1, 0, 0, 0, 0]]) / 4)
    good.bias.assign([-1, -1, 0, 0, 0.0, 0, 0, 0])
    useless.kernel.assign(np.zeros((8, 8)))
    return source, direction


def test_the_layer_that_knows_the_task_is_found(tmp_path):
    source, direction = make_source()
    x = np.random.default_rng(6).normal(size=(80, 20)).astype("float32")
    y = (np.abs(x @ direction)[:, 0] > 3).astype("int64")
    before = source.get_weights()
    found = search_reuse_depth(
        source, x, y, epochs=16, repeats=4, learning_rate=0.02, seed=0, verbose=False
    )
    assert [s.upto for s in found.scores] == ["relu", "useless"]
    assert found.scores[0].log_me > found.scores[1].log_me
    assert found.upto == "relu"
    candidates = {(r.upto, r.frozen): r for r in found.results}
    # The probe is as sure as the best that was trained, so that frozen features had a try.
    assert set(candidates) == {("relu", True), ("relu", False), ("useless", False), (None, False)}
    assert candidates[None, False].epochs == 16
    assert candidates["useless", False].epochs == 6
    assert found.num_epochs == 4 * sum(candidate.epochs for candidate in found.results)
    assert candidates[None, False].significant
    assert found.exhaustive_epochs == 4 * 5 * 16
    for old, new in zip(before, source.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert reuse_layers(source, found.upto).output_shape == (None, 8)
    text = str(found)
    assert "from scratch" in text
    assert "LogME" in text
    assert found.to_dict()["upto"] == "relu"
    pytest.importorskip("matplotlib")
    figure = found.plot(tmp_path / "depth.png")
    assert (tmp_path / "depth.png").stat().st_size > 10_000
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels == ["nothing", "relu", "useless"]


@pytest.mark.parametrize("normalisation", ["BatchNormalization", "RMSNormalization"])
def test_every_kernel_is_a_cut_and_normalisations_belong_to_the_one_below(normalisation):
    layers = [
        keras.layers.SpectralNormalization(keras.layers.Dense(8, "relu"), name="wrapped"),
        keras.layers.Dense(8, "relu", name="plain"),
        getattr(keras.layers, normalisation)(name="norm"),
        keras.layers.Dense(3),
    ]
    graph = Graph(keras.Sequential([keras.Input((4,)), *layers]))
    assert [call.operation.name for call in _candidates(graph)] == ["wrapped", "norm"]


def test_training_of_a_candidate_continues_bit_identically_after_a_break():
    source, _ = make_source()
    graph = Graph(source)
    calls = _candidates(graph)
    x, y = RNG.normal(size=(40, 20)).astype("float32"), RNG.integers(0, 2, 40)
    (features, _), rows = features_at(graph, calls, x), np.arange(32)
    layers = SharedLayers(graph, calls[-1], 2, 0.01)
    states = []
    for pieces in ([4], [2, 4]):
        frozen = Candidate(layers, calls[0], True, features)
        tuned = Candidate(layers, calls[0], False, x)
        for epochs in pieces:
            for repeat in (0, 1):
                frozen.train(repeat, epochs, y, rows, 16, seed=repeat)
                # Its layers are the same ones, with other weights in them.
                tuned.train(repeat, epochs, y, rows, 16, seed=repeat)
        states.append([c._states[repeat] for c in (frozen, tuned) for repeat in (0, 1)])
    for one, other in zip(*states, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(states[0][0][-1], states[0][1][-1])


def test_features_come_in_parts_and_are_what_the_layers_return():
    source, _ = make_source()
    graph = Graph(source)
    x = RNG.normal(size=(300, 20)).astype("float32")  # More than one part of 256.
    source.get_layer("useless").kernel.assign(RNG.normal(size=(8, 8)))
    expected, values = [], x.astype("float64")
    for name in ("good", "useless"):
        kernel, bias = (
            keras.ops.convert_to_numpy(v) for v in source.get_layer(name).trainable_variables
        )
        values = np.maximum(values @ kernel + bias, 0)
        expected.append(values)
    for calls in (_candidates(graph), _candidates(graph)[:1]):
        found = features_at(graph, calls, x)
        assert len(found) == len(calls)
        for a, b in zip(found, expected, strict=False):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_results_are_accuracy_and_cross_entropy():
    source, _ = make_source()
    graph = Graph(source)
    calls = _candidates(graph)
    x, y = RNG.normal(size=(300, 20)).astype("float32"), RNG.integers(0, 3, 300)
    layers = SharedLayers(graph, calls[-1], 3, 0.01)
    candidate = Candidate(layers, calls[0], False, x)
    rows = np.arange(260)  # More than one part of 256.
    candidate.train(0, 2, y, rows, 64, 0, held_out=np.arange(280, 300), at={1})
    assert list(candidate.results) == [1]
    found = candidate.evaluate(0, y, rows)
    logits = keras.ops.convert_to_numpy(layers.model(None)(x[rows])).astype("float64")
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.accuracy == np.mean(logits.argmax(1) == y[rows])
    assert found.loss == pytest.approx(-np.log(probabilities[rows, y[rows]]).mean(), rel=1e-5)


class Known:
    """A candidate whose results are known."""

    frozen = False

    def __init__(self, name, results):
        self.upto, self.known = name, results
        self.epochs, self.results = {}, {}

    def train(self, repeat, epochs, y, train, batch_size, seed, held_out, at):
        for epoch in range(self.epochs.get(repeat, 0) + 1, epochs + 1):
            if epoch in at:
                self.results.setdefault(epoch, {})[repeat] = self.known(repeat, epoch)
        self.epochs[repeat] = epochs


def test_the_best_on_average_over_the_last_two_fifths_wins():
    assert sorted(checkpoints(40)) == [24, 28, 32, 36, 40]
    halving = DepthHalving(np.zeros(9, int), folds_of(np.zeros(9, int), 3, 0), 40, 4, 0)
    assert halving.first_rung == 14
    steady = Known("steady", lambda repeat, epoch: EvalResult(0.8 + repeat / 100, 0.5))
    lucky = Known("lucky", lambda repeat, epoch: EvalResult(0.7 + 0.3 * (epoch in (14, 40)), 0.5))
    assert halving.best([lucky, steady], 14) is steady
    assert halving.num_epochs == 2 * 3 * 14
    assert halving.best([lucky, steady], 40) is steady
    assert halving.num_epochs == 2 * 3 * 40
    first, second = results([lucky, steady])
    assert (first.upto, second.upto) == ("steady", "lucky")
    assert first.accuracies == pytest.approx((0.8, 0.81, 0.82))
    assert second.accuracies == pytest.approx((0.76, 0.76, 0.76))
    assert second.difference[0] == pytest.approx(0.05)
    # Ten points of accuracy weigh as much as one nat.
    assert first.scores == pytest.approx((0.75, 0.76, 0.77))
    wrong = Known("confidently wrong", lambda repeat, epoch: EvalResult(0.85, 1.5))
    assert halving.best([wrong, steady], 40) is steady


def test_candidates_begin_with_the_layers_of_the_source_up_to_their_cut():
    source, _ = make_source()
    graph = Graph(source)
    calls = _candidates(graph)
    layers = SharedLayers(graph, calls[-1], 2, 0.01)
    whole = layers.model(None)
    assert layers.model(None) is whole  # Compiled once for all in which everything trains.
    names = [v.path for v in whole.variables]
    scratch, reused, again = (layers.initial_state(whole, cut, 3) for cut in (None, calls[0], None))
    for i, name in enumerate(names):
        np.testing.assert_array_equal(scratch[i], again[i])
        if "good" in name:
            np.testing.assert_array_equal(reused[i], source.get_layer("good").weights[i].numpy())
        else:
            np.testing.assert_array_equal(reused[i], scratch[i])
    assert not np.array_equal(reused[0], scratch[0])
    assert not np.array_equal(layers.initial_state(whole, None, 4)[0], scratch[0])


def test_wrong_arguments_are_refused():
    source, _ = make_source()
    x, y = np.ones((10, 20)), np.arange(10) % 2
    with pytest.raises(ValueError, match=r"epochs >= 8.*=3"):
        search_reuse_depth(source, x, y, epochs=3)
    with pytest.raises(ValueError, match=r"integers of shape \(rows,\)"):
        search_reuse_depth(source, x, y * 0.5)
    with pytest.raises(ValueError, match="two rows per repeat"):
        search_reuse_depth(source, x, y, repeats=6)
    with pytest.raises(ValueError, match="'nothing', which is not among"):
        search_reuse_depth(source, x, y, candidates=["nothing"])
    flat = keras.Sequential([keras.Input((20,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="at least two layers that have weights"):
        search_reuse_depth(flat, x, y)
