"""Scores of features without training a network: LogME and a linear probe."""

import numpy as np

_PENALTIES = 10.0 ** np.arange(-4, 3)


def log_me(features: np.ndarray, y: np.ndarray) -> float:
    """Returns the logarithm of the maximum evidence of Bayesian linear regression, per row.

    For each class, with targets t in {0, 1}, weights w ~ N(0, α⁻¹) and noise of precision β,

        LogME = max over α, β of log p(t | F, α, β) / n,

    found by MacKay's fixed-point iteration on the singular values of F; then the mean over classes.
    Larger is better. Reference: You, Liu, Wang and Long, "LogME: practical assessment of
    pre-trained models for transfer learning", ICML 2021.
    """
    n, d = features.shape
    u, s, _ = np.linalg.svd(features.astype("float64"), full_matrices=False)
    u, s = u[:, s > 1e-10], s[s > 1e-10]  # Features that are all 0 are dropped.
    squares = s**2
    values = []
    for k in np.unique(y):
        target = (y == k).astype("float64")
        projected = (u.T @ target) ** 2
        outside = max(target @ target - projected.sum(), 0.0)
        alpha = beta = 1.0
        for _ in range(100):
            ratio = alpha / beta
            gamma = (squares / (squares + ratio)).sum()
            length = (squares * projected / (ratio + squares) ** 2).sum()
            residual = (projected * (ratio / (ratio + squares)) ** 2).sum() + outside
            # If a class is fitted exactly, the evidence has no maximum.
            alpha = max(gamma, 1e-12) / max(length, 1e-12)
            beta = (n - gamma) / max(residual, 1e-12)
            if abs(alpha / beta - ratio) <= 1e-6 * ratio:
                break
        log_det = np.log(alpha + beta * squares).sum() + (d - len(s)) * np.log(alpha)
        fit = beta * residual + alpha * length
        evidence = d * np.log(alpha) + n * np.log(beta / (2 * np.pi)) - log_det - fit
        values.append(evidence / (2 * n))
    return float(np.mean(values))


def probe(features: np.ndarray, y: np.ndarray, folds: list[np.ndarray]) -> list[float]:
    """Returns the accuracy in each fold of a ridge classifier trained on the other folds.

    Features are standardized; the penalty is the best one of a coarse grid over all folds.
    """
    classes, labels = np.unique(y, return_inverse=True)
    targets = 2.0 * np.eye(len(classes))[labels] - 1.0
    accuracies = np.zeros((len(_PENALTIES), len(folds)))
    for j, held_out in enumerate(folds):
        train = np.ones(len(y), bool)
        train[held_out] = False
        mean = features[train].mean(0, dtype="float64")
        scale = np.maximum(features[train].std(0, dtype="float64"), 1e-6)
        a, b = ((features[rows] - mean) / scale for rows in (train, held_out))
        offset = targets[train].mean(0)
        u, s, vt = np.linalg.svd(a, full_matrices=False)
        right, onto = b @ vt.T, u.T @ (targets[train] - offset)
        for i, penalty in enumerate(_PENALTIES):
            shrunk = (s / (s**2 + penalty * len(a)))[:, None]
            guess = (right @ (shrunk * onto) + offset).argmax(1)
            accuracies[i, j] = (guess == labels[held_out]).mean()
    return [float(value) for value in accuracies[accuracies.mean(1).argmax()]]


def folds_of(y: np.ndarray, num_folds: int, seed: int) -> list[np.ndarray]:
    """Returns the rows of each of `num_folds` stratified folds."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    return [np.sort(order[i::num_folds]) for i in range(num_folds)]
