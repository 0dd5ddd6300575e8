"""How the weights of K models are laid out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_LARGE = 4096


class Pieces:
    """The places of variables in a few arrays (K, P): a large one has its own, the small share one.

    So an update rule takes few operations, and what a large variable needs stays in the cache.

    Args:
        shapes: Shape of each variable of one model.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = list(shapes)
        self.lengths = [int(np.prod(shape)) for shape in shapes]
        small = [i for i, length in enumerate(self.lengths) if length < _LARGE]
        large = [[i] for i, length in enumerate(self.lengths) if length >= _LARGE]
        self.groups = [*large, small] if small else large
        self.widths = [sum(self.lengths[i] for i in group) for group in self.groups]

    def split(self, pieces: Sequence[Any]) -> list[Any]:
        """Returns the tensor (K, ...) of each variable."""
        parts: list[Any] = [None] * len(self.shapes)
        for group, piece in zip(self.groups, pieces, strict=True):
            lengths = [self.lengths[i] for i in group]
            split = tf.split(piece, lengths, axis=1) if len(group) > 1 else [piece]
            for i, part in zip(group, split, strict=True):
                parts[i] = tf.reshape(part, (-1, *self.shapes[i]))
        return parts

    def join(self, parts: Sequence[Any]) -> list[Any]:
        """Returns the pieces that hold the tensor (K, ...) of each variable."""
        flat = [tf.reshape(part, (-1, n)) for part, n in zip(parts, self.lengths, strict=True)]
        return [tf.concat([flat[i] for i in group], axis=1) for group in self.groups]

    def of_one(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the pieces (P,) that hold the array of each variable of one model."""
        return [np.concatenate([arrays[i].ravel() for i in group]) for group in self.groups]

    def arrays(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the array of each variable of one model, whose pieces (P,) are given."""
        found = {}
        for group, piece in zip(self.groups, pieces, strict=True):
            ends = np.cumsum([self.lengths[i] for i in group])[:-1]
            for i, part in zip(group, np.split(piece, ends), strict=True):
                found[i] = part.reshape(self.shapes[i])
        return [found[i] for i in range(len(self.shapes))]
