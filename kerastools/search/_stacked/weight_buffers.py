"""How the weights of K models are laid out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_LARGE = 4096


class Pieces:
    """The places of variables in a few arrays (K, P): a large one has its own, the small share one.

    So an update rule takes few operations, and what a large variable needs stays in the cache. Of a
    variable that is `apart`, each model has a TensorFlow variable of its own, which a kernel can
    move in place: its piece is a list of K in place of an array.

    Args:
        shapes: Shape of each variable of one model.
        apart: Whether each variable may be apart; it is if it is large.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], apart: Sequence[bool]) -> None:
        self.shapes = list(shapes)
        self.lengths = [int(np.prod(shape)) for shape in shapes]
        self.apart = [own and n >= _LARGE for own, n in zip(apart, self.lengths, strict=True)]
        small = [i for i, length in enumerate(self.lengths) if length < _LARGE]
        large = [[i] for i, length in enumerate(self.lengths) if length >= _LARGE]
        self.groups = [*large, small] if small else large

    def zeros(self, size: int) -> list[Any]:
        """Returns variables that hold the pieces of `size` models, all 0."""
        return [
            [tf.Variable(tf.zeros(self.shapes[group[0]])) for _ in range(size)]
            if self.apart[group[0]]
            else tf.Variable(tf.zeros((size, sum(self.lengths[i] for i in group))))
            for group in self.groups
        ]

    def split(self, pieces: Sequence[Any]) -> list[Any]:
        """Returns the tensor (K, ...) of each variable, or the list of K."""
        parts: list[Any] = [None] * len(self.shapes)
        for group, piece in zip(self.groups, pieces, strict=True):
            if isinstance(piece, list):
                parts[group[0]] = piece
                continue
            lengths = [self.lengths[i] for i in group]
            split = tf.split(piece, lengths, axis=1) if len(group) > 1 else [piece]
            for i, part in zip(group, split, strict=True):
                parts[i] = tf.reshape(part, (-1, *self.shapes[i]))
        return parts

    def join(self, parts: Sequence[Any]) -> list[Any]:
        """Returns the pieces that hold what `split` returned."""
        flat = [
            part if isinstance(part, list) else tf.reshape(part, (-1, n))
            for part, n in zip(parts, self.lengths, strict=True)
        ]
        return [
            flat[group[0]] if self.apart[group[0]] else tf.concat([flat[i] for i in group], axis=1)
            for group in self.groups
        ]

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


def rows_of(piece: Any, places: Any) -> np.ndarray:
    """Returns what a piece, or any variable (K, ...), holds of the models at these places."""
    if isinstance(piece, list):
        return np.stack([read(piece[k]).ravel() for k in places])
    return read(piece)[places]


def set_rows(piece: Any, rows: dict[int, Any]) -> None:
    """Sets what a piece, or any variable (K, ...), holds of the models at some places."""
    if isinstance(piece, list):
        for k, row in rows.items():
            shape = piece[k].shape
            _write(piece[k], np.broadcast_to(row, shape.num_elements()).reshape(shape))
        return
    # The whole array: TensorFlow copies a variable at every reading once a slice was assigned.
    array = np.array(read(piece))
    for k, row in rows.items():
        array[k] = row
    _write(piece, array)


# `numpy` and `assign` of a variable take four times as long, and there are many.
def read(variable: Any) -> np.ndarray:
    """Returns what a TensorFlow variable holds."""
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype).numpy()


def _write(variable: Any, array: np.ndarray) -> None:
    value = tf.constant(array, variable.dtype)
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
