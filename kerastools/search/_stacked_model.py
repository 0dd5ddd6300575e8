"""K models of one structure, trained at once in one TensorFlow program."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerastools._core._clipping import clip_by_value
from kerastools._core._hyperparameter import Hyperparameter
from kerastools._core._stacked_keras import (
    built_metrics,
    compile_arguments,
    per_row_metric,
    run_through_graph,
)
from kerastools.search._live_models import state_of
from kerastools.search._stacked_layers import stacked_call
from kerastools.search._stacking import declared

_ROWS_OF_EVALUATION = 512


class StackedModel:
    """Trains up to K models together: the weights of all lie in one array (K, P).

    Gradients, update rule and best-epoch copies are then a few operations for all weights of all
    models; only the layers see them one by one. Nothing is computed across models: one that
    diverges leaves the others as they are.

    Args:
        template: A built and compiled model; what it computes is what all compute.
        size: K.
    """

    def __init__(self, template: Any, size: int) -> None:
        self.template = template
        self.size = size
        self.trainables = list(template.trainable_variables)
        self.shapes = [tuple(v.shape) for v in self.trainables]
        self.lengths = [int(np.prod(shape)) for shape in self.shapes]
        trained = {id(v) for v in self.trainables}
        self.others = [v for v in template.variables if id(v) not in trained]

        optimizer = template.optimizer
        self.theta = self._zeros((sum(self.lengths),))
        self.other_values = [self._zeros(tuple(v.shape), v.dtype) for v in self.others]
        self.slots = [self._zeros((1,)) for _ in optimizer.scalar_slots]
        self.slots += [self._zeros((sum(self.lengths),)) for _ in optimizer.slots]
        self.declared = declared(optimizer)
        self.numbers = {name: self._zeros((1,)) for name in ("learning_rate", *self.declared)}
        decays = [
            optimizer.weight_decay is not None and optimizer.decays(v) for v in self.trainables
        ]
        self.decays = np.repeat(np.array(decays, "float32"), self.lengths)

        self.state = [self.theta, *self.other_values, *self.slots]
        self.best = [tf.Variable(v) for v in self.state]
        loss = compile_arguments(template)["loss"]
        loss = keras.losses.get(loss)
        self.loss = loss.call if isinstance(loss, keras.losses.Loss) else loss
        self.metrics: list[tuple[str, Any]] | None = None
        # Traced once for rows of any number; y is as it comes.
        self.train_step = tf.function(self._train_step, reduce_retracing=True)
        self.test_step = tf.function(self._test_step, reduce_retracing=True)
        self.keep_best = tf.function(self._keep_best)

    def load(self, models: Sequence[Any]) -> None:
        """Gives each place the weights and numbers of one freshly built model."""
        self.theta.assign(_stack([_flat(m.trainable_variables) for m in models]))
        others = [_untrained(m) for m in models]
        for value, variables in zip(self.other_values, zip(*others, strict=True), strict=True):
            value.assign(_stack([ops.convert_to_numpy(v) for v in variables]))
        for slot in self.slots:
            slot.assign(tf.zeros_like(slot))
        for name, number in self.numbers.items():
            held = [_held(m.optimizer, name, self.declared) for m in models]
            number.assign(np.array(held, "float32")[:, None])
        seeds = [
            value.numpy()
            for variable, value in zip(self.others, self.other_values, strict=True)
            if "seed_generator" in variable.path
        ]
        self.common_seeds = all((seed == seed[0]).all() for seed in seeds)
        self.iterations = 0
        self.best_iterations = np.zeros(self.size, int)

    def fit(
        self,
        x: Any,
        y: Any,
        validation_data: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        shuffle: bool = True,
        seed: int = 0,
    ) -> Iterator[list[dict[str, float]]]:
        """Trains for `epochs`, yielding after each what Keras would log, for every model."""
        self._resolve_metrics(x, y)
        generator = np.random.default_rng(seed)
        for _ in range(epochs):
            order = generator.permutation(len(x)) if shuffle else np.arange(len(x))
            sums = []
            for start in range(0, len(x), batch_size):
                rows = order[start : start + batch_size]
                sums.append(self.train_step(x[rows], y[rows], self.common_seeds))
                self.iterations += 1
            logs = self._logs(sums, len(x))
            if validation_data is not None:
                xv, yv = validation_data
                sums = [
                    self.test_step(xv[i : i + _ROWS_OF_EVALUATION], yv[i : i + _ROWS_OF_EVALUATION])
                    for i in range(0, len(xv), _ROWS_OF_EVALUATION)
                ]
                validated = self._logs(sums, len(xv))
                for log, more in zip(logs, validated, strict=True):
                    log.update({f"val_{name}": value for name, value in more.items()})
            yield logs

    def remember(self, improved: np.ndarray) -> None:
        """Keeps the state of the models that are better than ever."""
        self.keep_best(tf.constant(improved))
        self.best_iterations[improved] = self.iterations

    def best_arrays(self) -> list[list[np.ndarray]]:
        """Returns, for each model, the best state as `state_of` a single model would give it."""
        template = self.template
        theta, *rest = (v.numpy() for v in self.best)
        others, slots = rest[: len(self.others)], rest[len(self.others) :]
        where: dict[int, Any] = {id(v): o for v, o in zip(self.others, others, strict=True)}
        ends = np.cumsum(self.lengths)[:-1]
        names = template.optimizer.scalar_slots
        parts = [theta, *slots[len(names) :]]
        flat = [np.split(part, ends, axis=1) for part in parts]
        state_of(template)  # Builds the optimizer.
        for i, variable in enumerate(self.trainables):
            held = [variable, *template.optimizer.slots_of(i)]
            for v, part in zip(held, flat, strict=True):
                where[id(v)] = part[i].reshape((self.size, *v.shape))
        for name, slot in zip(names, slots, strict=False):
            vector = getattr(template.optimizer, f"{name}_slots")
            where[id(vector)] = np.repeat(slot, vector.shape[0], axis=1)
        where[id(template.optimizer.iterations)] = self.best_iterations
        for name in self.numbers:
            variable = _number_variable(template.optimizer, name, self.declared)
            if variable is not None:
                where[id(variable)] = self.numbers[name].numpy()[:, 0]
        variables = state_of(template)
        return [[where[id(v)][k] for v in variables] for k in range(self.size)]

    def weights(self, k: int) -> list[np.ndarray]:
        """Returns the present weights of model `k`, in the order of `get_weights`."""
        parts = np.split(self.theta.numpy()[k], np.cumsum(self.lengths)[:-1])
        where = {id(v): p.reshape(v.shape) for v, p in zip(self.trainables, parts, strict=True)}
        others = zip(self.others, self.other_values, strict=True)
        where |= {id(v): o.numpy()[k] for v, o in others}
        return [where[id(v)] for v in self.template.weights]

    def _zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        return tf.Variable(tf.zeros((self.size, *shape), dtype))

    def _resolve_metrics(self, x: Any, y: Any) -> None:
        if self.metrics is None:
            with tf.device("CPU"):
                y_pred = self.template(x[:1], training=False)
            metrics = built_metrics(self.template, tf.convert_to_tensor(y[:1]), y_pred)
            self.metrics = [(metric.name, per_row_metric(metric)) for metric in metrics]

    def _forward(self, x: Any, values: "_Values", training: bool) -> Any:
        x = tf.broadcast_to(x[None], tf.concat([[self.size], tf.shape(x)], 0))
        x.set_shape((self.size, None, *self.template.inputs[0].shape[1:]))
        return run_through_graph(
            self.template,
            x,
            lambda layer, x, **_: stacked_call(layer)(layer, values, x, training),
        )

    def _measure(self, y: Any, y_pred: Any) -> tuple[Any, list[Any]]:
        """Returns the loss of each model and the mean of each metric over its rows."""
        if len(y.shape) == 1 and len(y_pred.shape) == 3 and y_pred.shape[-1] == 1:
            y = y[:, None]
        y = tf.cast(y, "float32") if y.dtype.is_floating else y
        y = tf.broadcast_to(y[None], tf.concat([[self.size], tf.shape(y)], 0))
        functions = [self.loss, *(function for _, function in self.metrics or ())]
        means = []
        for function in functions:
            values = tf.cast(function(y, y_pred), "float32")
            means.append(tf.reduce_mean(tf.reshape(values, (self.size, -1)), axis=1))
        return means[0], means

    def _train_step(self, x: Any, y: Any, common_seeds: bool) -> Any:
        x = tf.cast(x, "float32")
        with tf.GradientTape() as tape:
            values = _Values(self, common_seeds)
            loss, means = self._measure(y, self._forward(x, values, training=True))
            total = tf.reduce_sum(loss)
        self._update(tape.gradient(total, self.theta))
        for value, new in values.new.items():
            self.other_values[value].assign(new)
        return tf.stack(means) * tf.cast(tf.shape(x)[0], "float32")

    def _test_step(self, x: Any, y: Any) -> Any:
        x = tf.cast(x, "float32")
        _, means = self._measure(y, self._forward(x, _Values(self, True), training=False))
        return tf.stack(means) * tf.cast(tf.shape(x)[0], "float32")

    def _update(self, g: Any) -> None:
        """Moves all weights by the optimizer's own rule; its numbers are columns (K, 1)."""
        optimizer = self.template.optimizer
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

        if h.clipvalue is not None:
            g = clip_by_value(g, h.clipvalue)
        if h.clipnorm is not None:
            g = self._clip_each(g, h.clipnorm)
        theta = tf.convert_to_tensor(self.theta)
        held_slots = list(map(tf.convert_to_tensor, self.slots))
        scalars = optimizer.advance(h, *held_slots[: len(optimizer.scalar_slots)])
        delta, *slots = optimizer.rule(g, h, *held_slots[len(optimizer.scalar_slots) :])
        slots = [*scalars, *slots]
        if h.weight_decay is not None:
            delta = delta + h.learning_rate * h.weight_decay * theta * self.decays
        self.theta.assign(self._constrain(theta - delta))
        for slot, new in zip(self.slots, slots, strict=True):
            slot.assign(new)

    def _clip_each(self, g: Any, limit: Any) -> Any:
        """Scales the gradient of each variable of each model back to norm `limit`."""
        parts = tf.split(g, self.lengths, axis=1)
        largest = tf.stack([tf.reduce_max(tf.abs(part), axis=1) for part in parts], axis=1)
        unit = tf.where(largest > 0, largest, tf.ones_like(largest))
        columns = tf.split(unit, len(parts), axis=1)
        squares = [
            tf.reduce_sum(tf.square(part / column), axis=1)
            for part, column in zip(parts, columns, strict=True)
        ]
        length = unit * tf.sqrt(tf.stack(squares, axis=1))
        factor = limit / tf.maximum(length, limit)
        factor = tf.where(tf.math.is_inf(limit), tf.ones_like(factor), factor)
        return g * tf.repeat(factor, self.lengths, axis=1)

    def _constrain(self, theta: Any) -> Any:
        if all(v.constraint is None for v in self.trainables):
            return theta
        parts = tf.split(theta, self.lengths, axis=1)
        for i, variable in enumerate(self.trainables):
            if variable.constraint is not None:
                stacked = tf.reshape(parts[i], (self.size, *self.shapes[i]))
                constrained = _per_model(variable.constraint, len(self.shapes[i]))(stacked)
                parts[i] = tf.reshape(constrained, tf.shape(parts[i]))
        return tf.concat(parts, axis=1)

    def _keep_best(self, improved: Any) -> None:
        for best, now in zip(self.best, self.state, strict=True):
            mask = tf.reshape(improved, (-1,) + (1,) * (len(now.shape) - 1))
            best.assign(tf.where(mask, now, best))

    def _logs(self, sums: list[Any], rows: int) -> list[dict[str, float]]:
        means = tf.add_n(sums).numpy() / rows
        names = ["loss", *(name for name, _ in self.metrics or ())]
        return [
            {name: float(mean) for name, mean in zip(names, means[:, k], strict=True)}
            for k in range(self.size)
        ]


class _Values:
    """The values of the template's variables for all models, within one step."""

    def __init__(self, stacked: StackedModel, common_seeds: bool) -> None:
        self.stacked = stacked
        self.common_seeds = common_seeds
        self.new: dict[int, Any] = {}
        parts = tf.split(tf.convert_to_tensor(stacked.theta), stacked.lengths, axis=1)
        self.values = {
            id(v): tf.reshape(part, (stacked.size, *shape))
            for v, part, shape in zip(stacked.trainables, parts, stacked.shapes, strict=True)
        }
        self.place = {id(v): i for i, v in enumerate(stacked.others)}

    def get(self, variable: Any) -> Any:
        """Returns the values of `variable`, stacked."""
        if id(variable) in self.values:
            return self.values[id(variable)]
        return tf.convert_to_tensor(self.stacked.other_values[self.place[id(variable)]])

    def set(self, variable: Any, values: Any) -> None:
        """Says what `variable` shall be after the step."""
        self.new[self.place[id(variable)]] = values

    def uniform(self, state: Any, shape: Any) -> Any:
        """Returns numbers in [0, 1), those that a layer alone would draw from its `state`."""
        seeds = self.get(state)
        self.set(state, seeds + tf.constant([0, 1], seeds.dtype))
        # As Keras does: TensorFlow takes seeds of 32 bits.
        seeds = tf.cast(tf.math.floormod(seeds, tf.int32.max - 1), "int32")
        if self.common_seeds:
            return tf.random.stateless_uniform(shape, seeds[0])[None]
        drawn = [
            tf.random.stateless_uniform(shape, seed)
            for seed in tf.unstack(seeds, self.stacked.size)
        ]
        return tf.stack(drawn)


def _number_variable(optimizer: Any, name: str, numbers: dict[str, Hyperparameter]) -> Any:
    if name == "learning_rate":
        return optimizer.learning_rate
    return getattr(optimizer, numbers[name].attribute)


def _held(optimizer: Any, name: str, numbers: dict[str, Hyperparameter]) -> float:
    """Returns what the variable of a number holds; 0 where there is none."""
    variable = _number_variable(optimizer, name, numbers)
    return 0.0 if variable is None else float(ops.convert_to_numpy(variable))


def _per_model(constraint: Any, rank: int) -> Any:
    """Returns `constraint` for weights of `rank` axes behind one more axis."""
    if isinstance(constraint, keras.constraints.NonNeg):
        return constraint
    return type(constraint)(constraint.max_value, axis=tuple(range(1, rank)))


def _untrained(model: Any) -> list[Any]:
    trained = {id(v) for v in model.trainable_variables}
    return [v for v in model.variables if id(v) not in trained]


def _flat(variables: Sequence[Any]) -> np.ndarray:
    return np.concatenate([ops.convert_to_numpy(v).ravel() for v in variables])


def _stack(arrays: Sequence[Any]) -> np.ndarray:
    return np.stack(arrays)
