"""Each number is checked against enumeration of all states of a tiny machine, in float64."""

from itertools import product

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.datasets import load_digits
from sklearn.neural_network import BernoulliRBM

from kerastools.pretraining import RestrictedBoltzmann

V, H = 5, 3
STATES = np.array(list(product([0, 1], repeat=V)), "float64")
HIDDEN = np.array(list(product([0, 1], repeat=H)), "float64")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Enumerated:
    """A Bernoulli machine by its definition, summed over all states."""

    def __init__(self, rbm):
        self.w, self.b, self.c = (
            ops.convert_to_numpy(v).astype("float64")
            for v in (rbm.kernel, rbm.visible_bias, rbm.hidden_bias)
        )

    def log_sum_over_hidden(self, v):
        energy = -(v @ self.b)[:, None] - v @ self.w @ HIDDEN.T - HIDDEN @ self.c
        return np.log(np.exp(-energy).sum(axis=1))

    def log_likelihood(self, v):
        return self.log_sum_over_hidden(v) - np.log(np.exp(self.log_sum_over_hidden(STATES)).sum())

    def derivatives(self, v):
        """∂F/∂(w, b, c) of each row."""
        h = sigmoid(v @ self.w + self.c)
        return -np.einsum("ni,nj->nij", v, h), -v, -h

    def transitions(self):
        """p(v' | v) of one step of Gibbs sampling."""
        up = sigmoid(STATES @ self.w + self.c)[:, None, :]
        p_h = np.where(HIDDEN == 1, up, 1 - up).prod(axis=2)
        down = sigmoid(HIDDEN @ self.w.T + self.b)[:, None, :]
        p_v = np.where(STATES == 1, down, 1 - down).prod(axis=2)
        return p_h @ p_v

    def gradient(self, rows, steps=None):
        """Of −log p for `steps=None`, else the expectation of contrastive divergence."""
        start = (STATES[None] == rows[:, None]).all(axis=2).astype(float)
        if steps is None:
            model = np.exp(self.log_likelihood(STATES))
        else:
            model = (start @ np.linalg.matrix_power(self.transitions(), steps)).mean(axis=0)
        weight = start.mean(axis=0) - model
        return [np.tensordot(weight, d, axes=1) for d in self.derivatives(STATES)]


def machine(scale=0.8, **arguments):
    rbm = RestrictedBoltzmann(H, seed=3, **arguments)
    rbm.build((None, V))
    rng = np.random.default_rng(4)
    for v in (rbm.kernel, rbm.visible_bias, rbm.hidden_bias):
        v.assign(scale * rng.normal(size=v.shape))
    return rbm


def sampled_gradient(rbm, rows):
    """What one step of SGD with rate 1 subtracts."""
    before = rbm.get_weights()[:3]
    rbm.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    rbm.train_on_batch(rows.astype("float32"))
    after = rbm.get_weights()[:3]
    rbm.set_weights([*before, *rbm.get_weights()[3:]])
    return [a - b for a, b in zip(before, after, strict=True)]


def data(rows=40):
    rng = np.random.default_rng(6)
    bits = rng.random((rows, 1)) < 0.5
    return np.where(rng.random((rows, V)) < 0.9, bits, ~bits).astype("float64")


def test_free_energy_is_minus_the_log_of_the_sum_over_hidden_states():
    rbm = machine()
    energy = ops.convert_to_numpy(rbm.free_energy(STATES.astype("float32")))
    np.testing.assert_allclose(energy, -Enumerated(rbm).log_sum_over_hidden(STATES), rtol=2e-6)


def test_call_is_the_probability_of_the_hidden_bits():
    rbm = machine()
    exact = Enumerated(rbm)
    energy = -STATES @ exact.w @ HIDDEN.T - HIDDEN @ exact.c
    p_h = np.exp(-energy) / np.exp(-energy).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(rbm.predict(STATES, verbose=0), p_h @ HIDDEN, rtol=1e-5)


def test_gibbs_sampling_has_the_enumerated_transition_probabilities():
    rbm = machine()
    start = STATES[11]
    after = ops.convert_to_numpy(rbm.gibbs(np.tile(start, (40_000, 1)), steps=2)).astype(int)
    share = np.bincount(after @ 2 ** np.arange(V)[::-1], minlength=2**V) / len(after)
    want = np.linalg.matrix_power(Enumerated(rbm).transitions(), 2)[11]
    np.testing.assert_allclose(share, want, atol=5 * np.sqrt(0.25 / len(after)))


@pytest.mark.parametrize(("steps", "least_bias"), [(1, 0.03), (3, 0.0)])
def test_contrastive_divergence_has_the_enumerated_expectation(steps, least_bias, capsys):
    rbm = machine(gibbs_steps=steps)
    rows = data()
    got = sampled_gradient(rbm, np.repeat(rows, 2000, axis=0))
    exact = Enumerated(rbm)
    want = exact.gradient(rows, steps)
    # 80,000 chains of bits: a standard error of 0.0018 at most.
    worst = max(np.abs(a - b).max() for a, b in zip(got, want, strict=True))
    bias = max(np.abs(a - b).max() for a, b in zip(want, exact.gradient(rows), strict=True))
    with capsys.disabled():
        print(f"\nCD-{steps}: sampled − enumerated {worst:.4f}; bias to the likelihood {bias:.4f}")
    assert worst < 0.009
    assert bias > least_bias


def test_many_steps_give_the_gradient_of_the_log_likelihood(capsys):
    rbm = machine(gibbs_steps=40)
    rows = data()
    got = sampled_gradient(rbm, np.repeat(rows, 1000, axis=0))
    want = Enumerated(rbm).gradient(rows)
    worst = max(np.abs(a - b).max() for a, b in zip(got, want, strict=True))
    with capsys.disabled():
        print(f"\nCD-40: sampled − exact gradient of −log p {worst:.4f}")
    assert worst < 0.0125  # five standard errors


@pytest.mark.tensorflow  # Sampling is tested above on both; learning takes JAX long.
def test_persistent_chains_forget_where_they_began(capsys):
    rbm = machine(num_chains=40_000)
    rows = data()
    for _ in range(40):
        got = sampled_gradient(rbm, rows)  # which puts the weights back, but not the chains
    want = Enumerated(rbm).gradient(rows)
    worst = max(np.abs(a - b).max() for a, b in zip(got, want, strict=True))
    with capsys.disabled():
        print(f"\nPCD after 40 steps: sampled − exact gradient of −log p {worst:.4f}")
    assert worst < 0.0125


@pytest.mark.tensorflow  # Sampling is tested above on both; learning takes JAX long.
@pytest.mark.parametrize("arguments", [{}, {"num_chains": 40}])
def test_exact_log_likelihood_rises(arguments, capsys):
    rbm = machine(scale=0.01, **arguments)
    rows = data()
    rbm.compile(keras.optimizers.Adam(0.05))
    before = Enumerated(rbm).log_likelihood(rows).mean()
    rbm.fit(rows, epochs=80, batch_size=20, verbose=0)
    after = Enumerated(rbm).log_likelihood(rows).mean()
    entropy = -np.log((STATES[:, None] == rows).all(axis=2).mean(axis=1).clip(1e-9))
    bound = -(entropy * (STATES[:, None] == rows).all(axis=2).mean(axis=1)).sum()
    with capsys.disabled():
        print(f"\nlog p per row, {arguments or 'CD-1'}: {before:.3f} → {after:.3f} of {bound:.3f}")
    assert before == pytest.approx(-V * np.log(2), abs=0.02)
    assert after > before + 0.8
    assert after <= bound


def test_pseudo_likelihood_is_the_sum_of_the_conditionals():
    rbm = machine()
    exact = Enumerated(rbm)
    want = []
    for row in STATES:
        flips = np.abs(row - np.eye(V))
        gap = exact.log_likelihood(row[None]) - exact.log_likelihood(flips)
        want.append(-np.log1p(np.exp(-gap)).sum())
    got = ops.convert_to_numpy(rbm.pseudo_likelihood(np.repeat(STATES, 4000, axis=0)))
    np.testing.assert_allclose(got.reshape(-1, 4000).mean(axis=1), want, atol=0.35)
    assert got.mean() == pytest.approx(np.mean(want), abs=0.06)


def test_gaussian_units_have_their_density():
    rbm = RestrictedBoltzmann(H, visible="gaussian", seed=3)
    rbm.build((None, 1))
    rbm.set_weights([np.array([[0.9, -1.2, 0.4]]), np.array([0.3]), np.array([0.1, -0.2, 0.5])])
    grid = np.linspace(-12, 12, 4001)[:, None]
    density = np.exp(-ops.convert_to_numpy(rbm.free_energy(grid)).astype("float64"))
    density /= density.sum()
    # The mixture over hidden states: N(b + hW, 1), weighted by exp(c·h + bhW + (hW)²/2).
    w, b, c = (a.astype("float64") for a in rbm.get_weights())
    shift = HIDDEN @ w.T
    weight = np.exp(HIDDEN @ c + (b * shift + shift**2 / 2).sum(axis=1))
    mixture = np.exp(-((grid - b - shift.T) ** 2) / 2) @ weight
    np.testing.assert_allclose(density, mixture / mixture.sum(), atol=1e-8)
    samples = ops.convert_to_numpy(rbm.gibbs(np.zeros((40_000, 1)), steps=20))
    mean, var = (density * grid[:, 0]).sum(), (density * grid[:, 0] ** 2).sum()
    assert samples.mean() == pytest.approx(mean, abs=0.04)
    assert samples.var() == pytest.approx(var - mean**2, rel=0.04)


@pytest.mark.tensorflow  # Sampling is tested above on both; learning takes JAX long.
def test_gaussian_units_learn():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(400, 2)) @ rng.normal(size=(2, 8))).astype("float32")
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    rbm = RestrictedBoltzmann(12, visible="gaussian", seed=2)
    rbm.compile(keras.optimizers.Adam(0.01))
    history = rbm.fit(x, epochs=30, verbose=0).history
    assert "pseudo_likelihood" not in history
    assert history["reconstruction_error"][-1] < 0.5 * history["reconstruction_error"][0]


def exact_pseudo_likelihood(x, w, b, c):
    """Σᵢ log p(vᵢ | the others), in float64; real values stand for the share of ones."""
    x = x.astype("float64")
    to_hidden = x @ w + c
    total = 0.0
    for i in range(x.shape[1]):
        change = 1 - 2 * x[:, i : i + 1]
        gain = change[:, 0] * b[i] + (
            np.logaddexp(0, to_hidden + change * w[i]) - np.logaddexp(0, to_hidden)
        ).sum(axis=1)
        total -= np.logaddexp(0, gain).mean()
    return total


@pytest.mark.tensorflow  # Sampling is tested above on both; learning takes JAX long.
def test_pseudo_likelihood_on_digits_is_no_worse_than_scikit_learns(capsys):
    x = (load_digits().data / 16).astype("float32")[:1600]
    settings = {"learning_rate": 0.05, "batch_size": 50, "n_iter": 12}
    theirs = BernoulliRBM(64, random_state=1, **settings).fit(x)
    weights = theirs.components_.T, theirs.intercept_visible_, theirs.intercept_hidden_
    scores = {"scikit-learn": exact_pseudo_likelihood(x, *weights)}
    for name, arguments in {"PCD": {"num_chains": 50}, "CD-1": {}}.items():
        rbm = RestrictedBoltzmann(64, seed=1, **arguments)
        rbm.compile(keras.optimizers.SGD(0.05))
        # Their batches are fixed slices of the rows, in order.
        rbm.fit(x, epochs=12, batch_size=50, shuffle=False, verbose=0)
        weights = (ops.convert_to_numpy(v) for v in (rbm.kernel, rbm.visible_bias, rbm.hidden_bias))
        scores[name] = exact_pseudo_likelihood(x, *weights)
        estimate = np.mean([ops.convert_to_numpy(rbm.pseudo_likelihood(x)) for _ in range(20)])
        # One bit of 64 per row: a standard error of about 0.1.
        assert estimate == pytest.approx(scores[name], abs=0.5)
    with capsys.disabled():
        print(f"\npseudo-likelihood on digits after equal updates: {scores}")
    assert scores["PCD"] > scores["scikit-learn"] - 0.1
    assert scores["CD-1"] > scores["scikit-learn"] - 0.1


def test_equal_seeds_train_to_equal_weights():
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        rbm = RestrictedBoltzmann(H, seed=9)
        rbm.compile(keras.optimizers.Adam(0.01))
        rbm.fit(data(), epochs=2, verbose=0)
        weights.append(rbm.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "units >= 1"),
        ({"units": 3, "gibbs_steps": 0}, "gibbs_steps >= 1"),
        ({"units": 3, "num_chains": 0}, "num_chains >= 1"),
        ({"units": 3, "visible": "softmax"}, "visible to be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RestrictedBoltzmann(**arguments)


def test_bad_data_is_refused():
    rbm = RestrictedBoltzmann(3)
    rbm.compile("adam")
    with pytest.raises(ValueError, match="without labels"):
        rbm.fit(data(), np.zeros(40))
    with pytest.raises(ValueError, match="look like labels"):
        rbm.fit(np.zeros(40))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        rbm.fit(data() * 16)
    with pytest.raises(ValueError, match="NaN"):
        rbm.fit(np.full((4, V), np.nan))
    assert not rbm.built
