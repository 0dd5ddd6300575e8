"""One optimizer step for the weights of K models, and the buffers that hold them."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import dense
from kerastools.optimizers._base.clipping import clip_by_value
from kerastools.optimizers._base.hyperparameter import Hyperparameter, StepNumbers, UnstackCache
from kerastools.search._reuse.penalties import NUMBERS, penalties, with_numbers

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


class StackedUpdate:
    """The optimizer's own rule on the weights of K models, which lie in a few arrays (`Pieces`).

    Its numbers are columns (K, 1), so that every model has its own. Where the rule has a kernel of
    TensorFlow's, which takes single numbers, large variables are apart: each model's is moved by
    the kernel, in a third of the time. Those that are clipped or bounded are not.

    Args:
        template: The compiled model whose optimizer it is.
        size: K.
    """

    def __init__(self, template: Any, size: int) -> None:
        self.optimizer = optimizer = template.optimizer
        self.size = size
        self.has_kernel = optimizer._fuses and optimizer._has_kernel()
        self.variables = list(template.trainable_variables)
        shapes = [tuple(v.shape) for v in self.variables]
        self.pieces = Pieces(shapes, list(map(self._may_be_apart, self.variables)))
        self.declared = optimizer._declared()
        self.places = {(id(h), name): i for i, (h, name) in enumerate(penalties(template))}
        decays = [
            optimizer.weight_decay is not None and optimizer._decays(v) for v in self.variables
        ]
        self.decays = self._piecewise(decays)

        self.scalar_slots = [self._zeros(1) for _ in optimizer._scalar_slots]
        self.slots = [self.pieces.zeros(size) for _ in optimizer._slots]
        self.numbers = {name: self._zeros(1) for name in ("learning_rate", *self.declared)}
        self.readings = {
            name: self._zeros(1)
            for name in ("_gradient_norm", "_clipped_steps")
            if hasattr(optimizer, name)
        }
        self.state = [*self.scalar_slots, *chain(*self.slots), *self.readings.values()]
        slot_starts = zip(map(optimizer._slot_start, optimizer._slots), self.slots, strict=True)
        self.starts = [0.0] * len(self.scalar_slots)
        self.starts += [start for start, pieces in slot_starts for _ in pieces]
        self.starts += [0.0] * len(self.readings)

    def held(self, optimizer: Any) -> dict[str, float]:
        """Returns what the numbers of `optimizer`, one of the same kind, are held as."""
        variables = {name: number_variable(optimizer, name, self.declared) for name in self.numbers}
        return {
            name: 0.0 if variable is None else float(ops.convert_to_numpy(variable))
            for name, variable in variables.items()
        }

    def __call__(self, theta: list[Any], parts: list[Any], penalty_numbers: Any) -> None:
        """Moves the weights and the slots by one step.

        Args:
            theta: The pieces.
            parts: The gradient of each variable, as `Pieces.split` has them. A variable whose
                gradient is `None` stays as it is, without decay or bound, as in Keras.
            penalty_numbers: The numbers of each model's penalties and bounds.
        """
        optimizer = self.optimizer
        still = [part is None or (isinstance(part, list) and part[0] is None) for part in parts]
        stays = self._piecewise(still)
        columns = {name: tf.convert_to_tensor(column) for name, column in self.numbers.items()}
        eta = columns.pop("learning_rate")
        for name, number in self.declared.items():
            if getattr(optimizer, number.attribute) is None:
                columns[name] = None
        # Rounded as the kernels take them, with which each of the models would be trained alone.
        n = optimizer._step_numbers(eta, columns, "float32", rounds=self.has_kernel)

        filled = [
            tf.zeros((self.size, *shape)) if stay else part
            for part, stay, shape in zip(parts, still, self.pieces.shapes, strict=True)
        ]
        g = self._clip(self.pieces.join(filled), n)
        scalars = optimizer._advance(n, *map(tf.convert_to_tensor, self.scalar_slots))
        for slot, new in zip(self.scalar_slots, scalars, strict=True):
            slot.assign(new)
        numbers = self._of_each(n)
        moved: list[Any] = []
        for i, (weights, gradient) in enumerate(zip(theta, g, strict=True)):
            slots = [slot[i] for slot in self.slots]
            if stays[i].all():
                moved.append(weights)
                continue
            if isinstance(weights, list):
                self._move_apart(weights, gradient, slots, numbers, bool(self.decays[i].any()))
                moved.append(weights)
                continue
            delta, *new_slots = optimizer._rule(gradient, n, *map(tf.convert_to_tensor, slots))
            if n.weight_decay is not None:
                decays = self.decays[i].astype("float32")
                delta = delta + n.learning_rate * n.weight_decay * weights * decays
            for slot, new in zip(slots, new_slots, strict=True):
                slot.assign(new)
            new = weights - delta
            moved.append(tf.where(stays[i], weights, new) if stays[i].any() else new)
        bounded = self._constrain(moved, still, penalty_numbers)
        for piece, new in zip(theta, bounded, strict=True):
            if not isinstance(piece, list):
                piece.assign(new)

    def _move_apart(
        self, theta: list[Any], g: list[Any], slots: list[Any], numbers: list[Any], decays: bool
    ) -> None:
        """Moves one variable of each model with the optimizer's kernel."""
        rows = zip(theta, g, numbers, zip(*slots, strict=True), strict=True)
        for weights, gradient, n, own in rows:
            if decays and n.decay_factor is not None:
                weights.assign(weights * n.decay_factor)
            self.optimizer._kernel(weights, dense(gradient), n, *own)

    def _of_each(self, n: StepNumbers) -> list[Any]:
        """Returns the numbers of each model."""
        parts = UnstackCache(self.size)
        return [n.picked(partial(parts.at, k), "float32") for k in range(self.size)]

    def _may_be_apart(self, variable: Any) -> bool:
        optimizer = self.optimizer
        limits = (optimizer.clipvalue, optimizer.clipnorm, optimizer.global_clipnorm)
        unbounded = variable.constraint is None and all(limit is None for limit in limits)
        return self.has_kernel and unbounded

    def _clip(self, g: list[Any], n: StepNumbers) -> list[Any]:
        if self.readings:
            self.readings["_gradient_norm"].assign(_norm(g))
        if n.clipvalue is not None:
            g = [clip_by_value(piece, n.clipvalue) for piece in g]
        if n.clipnorm is not None:
            parts = [tf.reshape(p, (self.size, -1)) for p in self.pieces.split(g)]
            g = self.pieces.join([p * _shrink(_norm([p]), n.clipnorm) for p in parts])
        if n.global_clipnorm is not None:
            length = _norm(g)
            long = tf.math.is_finite(length) & (length > n.global_clipnorm)
            self.readings["_clipped_steps"].assign_add(tf.cast(long, "float32"))
            g = [piece * _shrink(length, n.global_clipnorm) for piece in g]
        return g

    def _constrain(self, theta: list[Any], still: list[bool], penalty_numbers: Any) -> list[Any]:
        if all(v.constraint is None for v in self.variables):
            return theta
        parts = self.pieces.split(theta)
        for i, variable in enumerate(self.variables):
            if variable.constraint is not None and not still[i]:
                shape = self.pieces.shapes[i]
                constraint = self._for_all(variable.constraint, shape, penalty_numbers)
                parts[i] = constraint(parts[i])
        return self.pieces.join(parts)

    def _for_all(self, constraint: Any, shape: tuple[int, ...], penalty_numbers: Any) -> Any:
        """Returns `constraint` for weights of `shape` behind one more axis."""
        if isinstance(constraint, keras.constraints.NonNeg):
            return constraint
        rank = len(shape)
        find = getattr(constraint, "_axis_of", lambda shape: constraint.axis)
        axes = find(shape)
        axes = (axes,) if isinstance(axes, int) else axes
        column = (self.size,) + (1,) * rank
        numbers = {
            name: tf.reshape(penalty_numbers[:, self.places[id(constraint), name]], column)
            for name in NUMBERS[type(constraint)]
        }
        return with_numbers(constraint, numbers, axis=tuple(axis % rank + 1 for axis in axes))

    def _piecewise(self, of_variables: list[bool]) -> list[np.ndarray]:
        """Returns the pieces of one model that say of every number what is said of its variable."""
        pairs = zip(of_variables, self.pieces.lengths, strict=True)
        return self.pieces.of_one([np.full(n, said) for said, n in pairs])

    def _zeros(self, width: int) -> Any:
        return tf.Variable(tf.zeros((self.size, width)))


def number_variable(optimizer: Any, name: str, numbers: dict[str, Hyperparameter]) -> Any:
    """Returns the variable that holds a number of `optimizer`, or `None`."""
    if name == "learning_rate":
        return optimizer.learning_rate
    return getattr(optimizer, numbers[name].attribute)


def _norm(pieces: list[Any]) -> Any:
    """Returns the norm of each model's numbers, as a column; their squares could overflow."""
    largest = tf.reduce_max(
        tf.stack([tf.reduce_max(tf.abs(g), axis=1, keepdims=True) for g in pieces]), axis=0
    )
    unit = tf.where(largest > 0, largest, tf.ones_like(largest))
    squares = [tf.reduce_sum(tf.square(g / unit), axis=1, keepdims=True) for g in pieces]
    return unit * tf.sqrt(tf.add_n(squares))


def _shrink(length: Any, limit: Any) -> Any:
    """Returns by what a gradient of `length` is multiplied so that it is no longer than `limit`."""
    factor = limit / tf.maximum(length, limit)
    # An infinite limit is no limit, and inf / inf no number.
    return tf.where(tf.math.is_inf(limit), tf.ones_like(factor), factor)
