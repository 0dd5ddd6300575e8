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
from kerastools.search._reuse.penalties import PENALTY_ARGUMENTS, penalties, with_values

_LARGE = 4096


class WeightBuffers:
    """Layout of the weights of K models in a few buffers of shape (K, P).

    Every large variable has its own buffer, and the small ones share one: an update rule takes few
    operations, and the data of a large variable stay in the cache. Where a variable is `separate`,
    each model has a TensorFlow variable of its own, which a fused kernel can update in place; its
    buffer is a list of K variables.

    Args:
        shapes: Shape of each variable of one model.
        separate: Whether each variable may be separate; it is if it is large.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], separate: Sequence[bool]) -> None:
        self.shapes = list(shapes)
        self.lengths = [int(np.prod(shape)) for shape in shapes]
        self.separate = [own and n >= _LARGE for own, n in zip(separate, self.lengths, strict=True)]
        small = [i for i, length in enumerate(self.lengths) if length < _LARGE]
        large = [[i] for i, length in enumerate(self.lengths) if length >= _LARGE]
        self.groups = [*large, small] if small else large

    def zeros(self, size: int) -> list[Any]:
        """Returns the buffers of `size` models, filled with 0."""
        return [
            [tf.Variable(tf.zeros(self.shapes[group[0]])) for _ in range(size)]
            if self.separate[group[0]]
            else tf.Variable(tf.zeros((size, sum(self.lengths[i] for i in group))))
            for group in self.groups
        ]

    def split(self, buffers: Sequence[Any]) -> list[Any]:
        """Returns the tensor (K, ...) of each variable, or the list of K."""
        parts: list[Any] = [None] * len(self.shapes)
        for group, buffer in zip(self.groups, buffers, strict=True):
            if isinstance(buffer, list):
                parts[group[0]] = buffer
                continue
            lengths = [self.lengths[i] for i in group]
            split = tf.split(buffer, lengths, axis=1) if len(group) > 1 else [buffer]
            for i, part in zip(group, split, strict=True):
                parts[i] = tf.reshape(part, (-1, *self.shapes[i]))
        return parts

    def join(self, parts: Sequence[Any]) -> list[Any]:
        """Returns the buffers of what `split` returned."""
        flat = [
            part if isinstance(part, list) else tf.reshape(part, (-1, n))
            for part, n in zip(parts, self.lengths, strict=True)
        ]
        return [
            flat[group[0]]
            if self.separate[group[0]]
            else tf.concat([flat[i] for i in group], axis=1)
            for group in self.groups
        ]

    def flatten(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the buffers (P,) of one model, given the array of each variable."""
        return [np.concatenate([arrays[i].ravel() for i in group]) for group in self.groups]

    def unflatten(self, buffers: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the array of each variable of one model, given its buffers (P,)."""
        found = {}
        for group, buffer in zip(self.groups, buffers, strict=True):
            ends = np.cumsum([self.lengths[i] for i in group])[:-1]
            for i, part in zip(group, np.split(buffer, ends), strict=True):
                found[i] = part.reshape(self.shapes[i])
        return [found[i] for i in range(len(self.shapes))]


def read_slots(buffer: Any, slots: Any) -> np.ndarray:
    """Returns the rows of a buffer, or of any variable (K, ...), at these slots."""
    if isinstance(buffer, list):
        return np.stack([read(buffer[k]).ravel() for k in slots])
    return read(buffer)[slots]


def write_slots(buffer: Any, rows: dict[int, Any]) -> None:
    """Sets rows of a buffer, or of any variable (K, ...), by slot."""
    if isinstance(buffer, list):
        for k, row in rows.items():
            shape = buffer[k].shape
            _write(buffer[k], np.broadcast_to(row, shape.num_elements()).reshape(shape))
        return
    # The whole array: once a slice was assigned, TensorFlow copies a variable at every read.
    array = np.array(read(buffer))
    for k, row in rows.items():
        array[k] = row
    _write(buffer, array)


# `numpy` and `assign` of a variable take four times as long, and there are many.
def read(variable: Any) -> np.ndarray:
    """Returns the value of a TensorFlow variable."""
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype).numpy()


def _write(variable: Any, array: np.ndarray) -> None:
    value = tf.constant(array, variable.dtype)
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


class StackedUpdate:
    """One step of the optimizer for K models, whose weights are in `WeightBuffers`.

    It applies the optimizer's own update rule to whole buffers, with hyperparameters of shape
    (K, 1). Where TensorFlow has a fused kernel for the rule, which takes scalar hyperparameters,
    large variables are separate, and each model's is updated by the kernel, in a third of the time;
    not those whose gradients are clipped or that have a constraint.

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
        self.buffers = WeightBuffers(shapes, list(map(self._may_be_separate, self.variables)))
        self.declared = optimizer._declared()
        self.penalty_index = {(id(h), name): i for i, (h, name) in enumerate(penalties(template))}
        decays = [
            optimizer.weight_decay is not None and optimizer._decays(v) for v in self.variables
        ]
        self.decays = self._per_element(decays)

        self.scalar_slots = [self._zeros(1) for _ in optimizer._scalar_slots]
        self.slots = [self.buffers.zeros(size) for _ in optimizer._slots]
        self.hyperparameters = {name: self._zeros(1) for name in ("learning_rate", *self.declared)}
        self.readings = {
            name: self._zeros(1)
            for name in ("_gradient_norm", "_clipped_steps")
            if hasattr(optimizer, name)
        }
        self.state = [*self.scalar_slots, *chain(*self.slots), *self.readings.values()]
        slot_starts = zip(map(optimizer._slot_start, optimizer._slots), self.slots, strict=True)
        self.starts = [0.0] * len(self.scalar_slots)
        self.starts += [start for start, buffers in slot_starts for _ in buffers]
        self.starts += [0.0] * len(self.readings)

    def read_hyperparameters(self, optimizer: Any) -> dict[str, float]:
        """Returns the values of the variables that hold the hyperparameters of `optimizer`."""
        variables = {
            name: hyperparameter_variable(optimizer, name, self.declared)
            for name in self.hyperparameters
        }
        return {
            name: 0.0 if variable is None else float(ops.convert_to_numpy(variable))
            for name, variable in variables.items()
        }

    def __call__(self, theta: list[Any], parts: list[Any], penalty_values: Any) -> None:
        """Updates weights and slots by one step.

        Args:
            theta: The buffers of the weights.
            parts: The gradient of each variable, split as by `WeightBuffers.split`. A variable
                whose gradient is `None` is not updated, decayed or constrained, as in Keras.
            penalty_values: Hyperparameters of the regularizers and constraints, (K, number).
        """
        optimizer = self.optimizer
        still = [part is None or (isinstance(part, list) and part[0] is None) for part in parts]
        stays = self._per_element(still)
        columns = {name: tf.convert_to_tensor(v) for name, v in self.hyperparameters.items()}
        eta = columns.pop("learning_rate")
        for name, declared in self.declared.items():
            if getattr(optimizer, declared.attribute) is None:
                columns[name] = None
        # Rounded as the fused kernels take them, by which each model would be trained alone.
        n = optimizer._step_numbers(eta, columns, "float32", rounds=self.has_kernel)

        filled = [
            tf.zeros((self.size, *shape)) if stay else part
            for part, stay, shape in zip(parts, still, self.buffers.shapes, strict=True)
        ]
        g = self._clip(self.buffers.join(filled), n)
        scalars = optimizer._advance(n, *map(tf.convert_to_tensor, self.scalar_slots))
        for slot, new in zip(self.scalar_slots, scalars, strict=True):
            slot.assign(new)
        per_model = self._per_model(n)
        moved: list[Any] = []
        for i, (weights, gradient) in enumerate(zip(theta, g, strict=True)):
            slots = [slot[i] for slot in self.slots]
            if stays[i].all():
                moved.append(weights)
                continue
            if isinstance(weights, list):
                self._update_separately(
                    weights, gradient, slots, per_model, bool(self.decays[i].any())
                )
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
        bounded = self._constrain(moved, still, penalty_values)
        for buffer, new in zip(theta, bounded, strict=True):
            if not isinstance(buffer, list):
                buffer.assign(new)

    def _update_separately(
        self, theta: list[Any], g: list[Any], slots: list[Any], per_model: list[Any], decays: bool
    ) -> None:
        """Updates one variable of each model by the optimizer's fused kernel."""
        rows = zip(theta, g, per_model, zip(*slots, strict=True), strict=True)
        for weights, gradient, n, own in rows:
            if decays and n.decay_factor is not None:
                weights.assign(weights * n.decay_factor)
            self.optimizer._kernel(weights, dense(gradient), n, *own)

    def _per_model(self, n: StepNumbers) -> list[Any]:
        """Returns the numbers of each model."""
        parts = UnstackCache(self.size)
        return [n.picked(partial(parts.at, k), "float32") for k in range(self.size)]

    def _may_be_separate(self, variable: Any) -> bool:
        optimizer = self.optimizer
        limits = (optimizer.clipvalue, optimizer.clipnorm, optimizer.global_clipnorm)
        unbounded = variable.constraint is None and all(limit is None for limit in limits)
        return self.has_kernel and unbounded

    def _clip(self, g: list[Any], n: StepNumbers) -> list[Any]:
        if self.readings:
            self.readings["_gradient_norm"].assign(_norm(g))
        if n.clipvalue is not None:
            g = [clip_by_value(buffer, n.clipvalue) for buffer in g]
        if n.clipnorm is not None:
            parts = [tf.reshape(p, (self.size, -1)) for p in self.buffers.split(g)]
            g = self.buffers.join([p * _shrink(_norm([p]), n.clipnorm) for p in parts])
        if n.global_clipnorm is not None:
            length = _norm(g)
            long = tf.math.is_finite(length) & (length > n.global_clipnorm)
            self.readings["_clipped_steps"].assign_add(tf.cast(long, "float32"))
            g = [buffer * _shrink(length, n.global_clipnorm) for buffer in g]
        return g

    def _constrain(self, theta: list[Any], still: list[bool], penalty_values: Any) -> list[Any]:
        if all(v.constraint is None for v in self.variables):
            return theta
        parts = self.buffers.split(theta)
        for i, variable in enumerate(self.variables):
            if variable.constraint is not None and not still[i]:
                shape = self.buffers.shapes[i]
                constraint = self._for_all(variable.constraint, shape, penalty_values)
                parts[i] = constraint(parts[i])
        return self.buffers.join(parts)

    def _for_all(self, constraint: Any, shape: tuple[int, ...], penalty_values: Any) -> Any:
        """Returns `constraint` for weights of shape (K, *shape)."""
        if isinstance(constraint, keras.constraints.NonNeg):
            return constraint
        rank = len(shape)
        find = getattr(constraint, "axes_of", lambda shape: constraint.axis)
        axes = find(shape)
        axes = (axes,) if isinstance(axes, int) else axes
        column = (self.size,) + (1,) * rank
        values = {
            name: tf.reshape(penalty_values[:, self.penalty_index[id(constraint), name]], column)
            for name in PENALTY_ARGUMENTS[type(constraint)]
        }
        return with_values(constraint, values, axis=tuple(axis % rank + 1 for axis in axes))

    def _per_element(self, flags: list[bool]) -> list[np.ndarray]:
        """Returns the flags of the variables, repeated for every element of their buffers."""
        pairs = zip(flags, self.buffers.lengths, strict=True)
        return self.buffers.flatten([np.full(n, flag) for flag, n in pairs])

    def _zeros(self, width: int) -> Any:
        return tf.Variable(tf.zeros((self.size, width)))


def hyperparameter_variable(optimizer: Any, name: str, declared: dict[str, Hyperparameter]) -> Any:
    """Returns the variable that holds a hyperparameter of `optimizer`, or `None`."""
    if name == "learning_rate":
        return optimizer.learning_rate
    return getattr(optimizer, declared[name].attribute)


def _norm(buffers: list[Any]) -> Any:
    """Returns the gradient norm of each model, (K, 1), computed without overflow."""
    largest = tf.reduce_max(
        tf.stack([tf.reduce_max(tf.abs(g), axis=1, keepdims=True) for g in buffers]), axis=0
    )
    unit = tf.where(largest > 0, largest, tf.ones_like(largest))
    squares = [tf.reduce_sum(tf.square(g / unit), axis=1, keepdims=True) for g in buffers]
    return unit * tf.sqrt(tf.add_n(squares))


def _shrink(length: Any, limit: Any) -> Any:
    """Returns the factor that clips a gradient of norm `length` to norm `limit`."""
    factor = limit / tf.maximum(length, limit)
    # An infinite limit means no clipping, and inf / inf is NaN.
    return tf.where(tf.math.is_inf(limit), tf.ones_like(factor), factor)
