"""Seeds for keras-tuner that mean what they say."""

import numpy as np


def decorrelated_seed(seed: int) -> int:
    """Returns the seed to hand to a keras-tuner oracle so that seeds do not overlap.

    keras-tuner ignores a seed of 0, and draws one hyperparameter from `seed`, the next from
    `seed + 1` and so on, so that searches with seeds 5 and 9 share most of their configurations.
    This maps every integer to one of 2³¹ seeds far apart from its neighbours', and never to 0.

    Args:
        seed: Any integer from 0.

    Raises:
        ValueError: If `seed` is negative.

    Example:

    >>> import keras_tuner
    >>> oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", seed=decorrelated_seed(0))
    >>> oracle.seed == decorrelated_seed(0) != decorrelated_seed(1)
    True
    """
    if seed < 0:
        raise ValueError(f"decorrelated_seed needs an integer from 0. Received seed={seed}.")
    return 1 + int(np.random.SeedSequence(seed).generate_state(1)[0]) // 2
