"""Deleting a share of the input."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MaskingNoise:
    """Deletes features of a row, or patches of an image, for an encoder to predict them.

    The task of `pretrain_autoencoder(..., noise=MaskingNoise(0.3))`. With M ~ Bernoulli(1 − rate)
    per feature or per patch, and x̂ what the autoencoder makes of x̃:

        x̃ = M ⊗ x + (1 − M) · value
        J = Σ w ⊗ ℓ(x, x̂) / Σ w,   w = (1 − M) + kept_weight · M

    `kept_weight` chooses the task: 1 is the denoising autoencoder, which reconstructs everything;
    0 is masked prediction, in which only what was deleted counts; between them lies the emphasised
    denoising autoencoder.

    Args:
        rate: Probability that a feature or patch is deleted, in (0, 1). Usual: 0.1 to 0.5 for
            features, 0.5 to 0.75 for patches.
        patch: Size of a patch along each axis of a row but the last, the channels', which go
            together: `(4, 4)` for images, `(8,)` for series. By default single features.
        kept_weight: What a kept feature counts in the loss, at least 0.
        value: What stands in place of what was deleted; for standardised data 0 is the mean.

    Raises:
        ValueError: If a number is out of range; on use, if `patch` does not fit the rows.

    Example:

    >>> x = np.ones((1, 4, 4, 3), "float32")
    >>> noise = MaskingNoise(0.5, patch=(2, 2), kept_weight=0.0)
    >>> noisy, weight = noise(x, np.random.default_rng(1))
    >>> noisy[0, :, :, 0]
    array([[1., 1., 1., 1.],
           [1., 1., 1., 1.],
           [0., 0., 1., 1.],
           [0., 0., 1., 1.]], dtype=float32)
    >>> bool(((noisy == 0) == (weight == 1)).all())
    True

    References: Vincent, Larochelle, Lajoie, Bengio and Manzagol, "Stacked denoising autoencoders",
    JMLR 2010 (section 6.1 for the emphasis); He, Chen, Xie, Li, Dollár and Girshick, "Masked
    autoencoders are scalable vision learners", CVPR 2022.
    """

    rate: float = 0.3
    patch: tuple[int, ...] | None = None
    kept_weight: float = 1.0
    value: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(
                f"MaskingNoise needs a rate in (0, 1), the share that is deleted. Received "
                f"rate={self.rate}."
            )
        if not 0 <= self.kept_weight < float("inf"):
            raise ValueError(
                f"MaskingNoise needs kept_weight >= 0. Received kept_weight={self.kept_weight}."
            )
        if self.patch is not None and min(self.patch, default=0) < 1:
            raise ValueError(
                f"MaskingNoise needs patch to be sizes of at least 1, one per axis of a row but "
                f"the last. Received patch={self.patch}."
            )

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
        """Returns the rows with parts deleted, and what each feature counts, `None` if equally."""
        deleted = rng.random(x.shape) < self.rate if self.patch is None else self._patches(x, rng)
        noisy = np.where(deleted, np.asarray(self.value, x.dtype), x)
        if self.kept_weight == 1:
            return noisy, None
        return noisy, np.where(deleted, 1.0, self.kept_weight).astype("float32")

    def _patches(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sizes = x.shape[1:-1]
        if self.patch is None or len(self.patch) != len(sizes):
            raise ValueError(
                f"MaskingNoise needs one patch size per axis of a row but the last. Received "
                f"patch={self.patch} and rows of shape {x.shape[1:]}."
            )
        grid = [-(-size // step) for size, step in zip(sizes, self.patch, strict=True)]
        deleted = rng.random((len(x), *grid, 1)) < self.rate
        for axis, (size, step) in enumerate(zip(sizes, self.patch, strict=True), start=1):
            deleted = np.repeat(deleted, step, axis).take(range(size), axis)
        return np.broadcast_to(deleted, x.shape)
