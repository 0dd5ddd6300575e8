"""One step of the optimizer for the weights of many models."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerastools._core._clipping import clip_by_value
from kerastools._core._hyperparameter import Hyperparameter
from kerastools.search._penalties import NUMBERS, penalties, with_numbers


class StackedUpdate:
    """The optimizer's own rule on the weights of K models, which lie in one array (K, P).

    Its numbers are columns (K, 1), so that every model has its own.

    Args:
        template: The compiled model whose optimizer it is.
        size: K.
    """

    def __init__(self, template: Any, size: int) -> None:
        self.optimizer = optimizer = template.optimizer
        self.size = size
        self.variables = list(template.trainable_variables)
        self.shapes = [tuple(v.shape) for v in self.variables]
        self.lengths = [int(np.prod(shape)) for shape in self.shapes]
        self.declared = declared(optimizer)
        self.places = {(id(h), name): i for i, (h, name) in enumerate(penalties(template))}
        decays = [
            optimizer.weight_decay is not None and optimizer.decays(v) for v in self.variables
        ]
        self.decays = np.repeat(np.array(decays, "float32"), self.lengths)

        width = sum(self.lengths)
        self.slots = [self._zeros(1) for _ in optimizer.scalar_slots]
        self.slots += [self._zeros(width) for _ in optimizer.slots]
        self.numbers = {name: self._zeros(1) for name in ("learning_rate", *self.declared)}
        self.readings = {
            name: self._zeros(1)
            for name in ("_gradient_norm", "_clipped_steps")
            if hasattr(optimizer, name)
        }
        self.state = [*self.slots, *self.readings.values()]

    def held(self, optimizer: Any) -> dict[str, float]:
        """Returns what the numbers of `optimizer`, one of the same kind, are held as."""
        variables = {name: number_variable(optimizer, name, self.declared) for name in self.numbers}
        return {
            name: 0.0 if variable is None else float(ops.convert_to_numpy(variable))
            for name, variable in variables.items()
        }

    def __call__(self, theta: Any, g: Any, penalty_numbers: Any) -> Any:
        """Returns the weights after the step, and moves the slots."""
        optimizer = self.optimizer
        held = {d.attribute: None for d in self.declared.values()}
        for name, number in self.declared.items():
            if getattr(optimizer, number.attribute) is not None:
                held[number.attribute] = tf.convert_to_tensor(self.numbers[name])
        columns = SimpleNamespace(**held)
        h = SimpleNamespace(
            **{name: d.in_update(columns, "float32") for name, d in self.declared.items()}
        )
        h.learning_rate = tf.convert_to_tensor(self.numbers["learning_rate"])
        h.zero = tf.constant(0.0)

        g = self._clip(g, h)
        slots = list(map(tf.convert_to_tensor, self.slots))
        scalars = optimizer.advance(h, *slots[: len(optimizer.scalar_slots)])
        delta, *moved = optimizer.rule(g, h, *slots[len(optimizer.scalar_slots) :])
        if h.weight_decay is not None:
            delta = delta + h.learning_rate * h.weight_decay * theta * self.decays
        for slot, new in zip(self.slots, [*scalars, *moved], strict=True):
            slot.assign(new)
        return self._constrain(theta - delta, penalty_numbers)

    def _clip(self, g: Any, h: SimpleNamespace) -> Any:
        if self.readings:
            self.readings["_gradient_norm"].assign(_norm(g))
        if h.clipvalue is not None:
            g = clip_by_value(g, h.clipvalue)
        if h.clipnorm is not None:
            parts = tf.split(g, self.lengths, axis=1)
            factor = _shrink(tf.concat([_norm(part) for part in parts], axis=1), h.clipnorm)
            g = g * tf.repeat(factor, self.lengths, axis=1)
        if h.global_clipnorm is not None:
            length = _norm(g)
            long = tf.math.is_finite(length) & (length > h.global_clipnorm)
            self.readings["_clipped_steps"].assign_add(tf.cast(long, "float32"))
            g = g * _shrink(length, h.global_clipnorm)
        return g

    def _constrain(self, theta: Any, penalty_numbers: Any) -> Any:
        if all(v.constraint is None for v in self.variables):
            return theta
        parts = tf.split(theta, self.lengths, axis=1)
        for i, variable in enumerate(self.variables):
            if variable.constraint is not None:
                stacked = tf.reshape(parts[i], (self.size, *self.shapes[i]))
                constraint = self._for_all(variable.constraint, self.shapes[i], penalty_numbers)
                parts[i] = tf.reshape(constraint(stacked), tf.shape(parts[i]))
        return tf.concat(parts, axis=1)

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

    def _zeros(self, width: int) -> Any:
        return tf.Variable(tf.zeros((self.size, width)))


def declared(optimizer: Any) -> dict[str, Hyperparameter]:
    """Returns the numbers that the class of `optimizer` declares, by name."""
    return {
        name: attribute
        for cls in reversed(type(optimizer).__mro__)
        for name, attribute in vars(cls).items()
        if isinstance(attribute, Hyperparameter)
    }


def number_variable(optimizer: Any, name: str, numbers: dict[str, Hyperparameter]) -> Any:
    """Returns the variable that holds a number of `optimizer`, or `None`."""
    if name == "learning_rate":
        return optimizer.learning_rate
    return getattr(optimizer, numbers[name].attribute)


def _norm(g: Any) -> Any:
    """Returns the norm of each row, as a column; the squares are those of g / max|g|."""
    largest = tf.reduce_max(tf.abs(g), axis=1, keepdims=True)
    unit = tf.where(largest > 0, largest, tf.ones_like(largest))
    return unit * tf.sqrt(tf.reduce_sum(tf.square(g / unit), axis=1, keepdims=True))


def _shrink(length: Any, limit: Any) -> Any:
    """Returns by what a gradient of `length` is multiplied so that it is no longer than `limit`."""
    factor = limit / tf.maximum(length, limit)
    # An infinite limit is no limit, and inf / inf no number.
    return tf.where(tf.math.is_inf(limit), tf.ones_like(factor), factor)
