"""`decorrelated_seed`: seeds for keras-tuner's oracles."""

import numpy as np


def decorrelated_seed(seed: int) -> int:
    """Returns a seed for a keras-tuner oracle, decorrelated from those of other integers.

    keras-tuner ignores seed 0, and draws hyperparameters with `seed`, `seed + 1` and so on, so that
    searches with seeds 5 and 9 share most of their configurations. This function maps every integer
    to one of 2³¹ seeds by a hash, never to 0.

    Args:
        seed: Integer >= 0.

    Raises:
        ValueError: If `seed` is negative.

    Example:

    >>> import keras_tuner
    >>> oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", seed=decorrelated_seed(0))
    >>> oracle.seed == decorrelated_seed(0) != decorrelated_seed(1)
    True
    """
    if seed < 0:
        raise ValueError(f"decorrelated_seed needs seed >= 0. Received seed={seed}.")
    return 1 + int(np.random.SeedSequence(seed).generate_state(1)[0]) // 2
