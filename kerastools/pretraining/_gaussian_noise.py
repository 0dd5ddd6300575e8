"""Adding normal noise to the input."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GaussianNoise:
    """Adds normal noise to rows, for an encoder to take it away again.

    The task of `pretrain_autoencoder(..., noise=GaussianNoise(0.5))`, the denoising autoencoder:

        x̃ = x + stddev · n,   n ~ N(0, 1) per feature

    The clean x is what the autoencoder is to return. For tables and images of continuous values;
    for counts, bits and gaps in the data see `MaskingNoise`.

    Args:
        stddev: Standard deviation of the noise, in units of x, greater than 0. Usual: 0.1 to 0.5
            of the data's own.

    Raises:
        ValueError: If `stddev` is not greater than 0.

    Example:

    >>> noisy, weight = GaussianNoise(0.5)(np.zeros((1000, 8), "float32"), np.random.default_rng(1))
    >>> bool(0.48 < noisy.std() < 0.52)
    True

    Reference: Vincent, Larochelle, Lajoie, Bengio and Manzagol, "Stacked denoising autoencoders",
    JMLR 2010.
    """

    stddev: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.stddev < float("inf"):
            raise ValueError(f"GaussianNoise needs stddev > 0. Received stddev={self.stddev}.")

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        """Returns the rows with noise; `None` stands for equal weights of all features."""
        return x + self.stddev * rng.standard_normal(x.shape, dtype="float32"), None
