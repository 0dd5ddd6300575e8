"""K models of one structure, trained in one TensorFlow program."""

from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastools._core.keras_private.compiled_model import (
    built_metrics,
    compile_arguments,
    per_row_metric,
)
from kerastools.search._reuse.model_cache import state_of
from kerastools.search._reuse.penalties import PENALTY_ARGUMENTS, penalties, penalty_values
from kerastools.search._stacked.stacked_layers import SharedTraces, forward
from kerastools.search._stacked.stacked_tensor import StackedTensor, StackedValues
from kerastools.search._stacked.stacked_update import (
    StackedUpdate,
    hyperparameter_variable,
    read,
    read_slots,
    write_slots,
)

# Rows per call of evaluation, over all models.
_ROWS_OF_EVALUATION = 1024
_STEPS_PER_CALL = 100


class StackedModel:
    """Trains K models together; their weights are in a few buffers (`WeightBuffers`).

    The update rule and the copies of the best epoch take a few operations for all weights of all
    models. Models do not depend on each other: one that diverges, or whose slot is reloaded, leaves
    the others unchanged.

    Args:
        template: A built and compiled model; all models compute the same.
        size: K, the number of slots.
    """

    def __init__(self, template: Any, size: int) -> None:
        self.template = template
        self.size = size
        self.update = StackedUpdate(template, size)
        self.others = _untrained(template)
        self.theta = self.update.buffers.zeros(size)
        self.other_values = [self._zeros(tuple(v.shape), v.dtype) for v in self.others]
        self.penalty_values = self._zeros((len(penalties(template)),))
        self.state = [*self.theta, *self.other_values, *self.update.state]
        self.best = [read_slots(v, range(size)).copy() for v in self.state]
        self.steps = np.zeros(size, int)
        self.best_steps = np.zeros(size, int)
        loss = keras.losses.get(compile_arguments(template)["loss"])
        self.loss = loss.call if isinstance(loss, keras.losses.Loss) else loss
        self.metrics: list[tuple[str, Any]] | None = None
        self.same_seeds: bool | None = None
        self.traces = SharedTraces(template)
        self.train_steps = _AnyRows(self._train_steps)
        self.test_step = _AnyRows(self._test_step)

    def load(self, models: dict[int, Any]) -> None:
        """Loads freshly built models into slots: weights, hyperparameters, new slots."""
        fresh = {}
        for k, model in models.items():
            weights = self.update.buffers.flatten(_arrays(model.trainable_variables))
            fresh[k] = [*weights, *_arrays(_untrained(model))]
        starts = [0.0] * (len(self.state) - len(self.update.starts)) + self.update.starts
        for i, held in enumerate(self.state):
            write_slots(held, {k: v[i] if i < len(v) else starts[i] for k, v in fresh.items()})
        values = {k: self.update.read_hyperparameters(m.optimizer) for k, m in models.items()}
        for name, held in self.update.hyperparameters.items():
            write_slots(held, {k: value[name] for k, value in values.items()})
        write_slots(self.penalty_values, {k: penalty_values(model) for k, model in models.items()})
        for k in models:
            self.steps[k] = self.best_steps[k] = 0
        self.same_seeds = None

    def train(self, x: Any, y: Any, batch_size: int, order: np.ndarray) -> list[dict[str, float]]:
        """Trains one epoch on the rows in this order; returns the logs of each slot."""
        self._resolve(x, y)
        sums = []
        for start in range(0, len(x), _STEPS_PER_CALL * batch_size):
            rows = order[start : start + _STEPS_PER_CALL * batch_size]
            sums.append(self.train_steps(x[rows], y[rows], batch_size, self.same_seeds))
        self.steps += -(-len(x) // batch_size)
        return self._logs(sums, len(x))

    def evaluate(self, x: Any, y: Any, batch_size: int) -> list[dict[str, float]]:
        """Returns the validation logs of each slot."""
        self._resolve(x, y)
        rows = max(batch_size, _ROWS_OF_EVALUATION // self.size)
        starts = range(0, len(x), rows)
        sums = [self.test_step(x[i : i + rows], y[i : i + rows]) for i in starts]
        logs = self._logs(sums, len(x))
        return [{f"val_{name}": value for name, value in log.items()} for log in logs]

    def keep_best(self, improved: np.ndarray) -> None:
        """Copies the state of the models that improved."""
        slots = np.flatnonzero(improved)
        if len(slots):
            for best, now in zip(self.best, self.state, strict=True):
                best[slots] = read_slots(now, slots)
        self.best_steps[improved] = self.steps[improved]

    def best_state(self, k: int) -> list[np.ndarray]:
        """Returns the best state of slot `k`, in the order of `state_of(model)`."""
        optimizer, update = self.template.optimizer, self.update
        variables = state_of(self.template)  # Builds the optimizer.
        rest = iter([array[k] for array in self.best])
        n = len(self.theta)
        theta = list(islice(rest, n))
        where: dict[int, Any] = {id(v): next(rest) for v in self.others}
        for name in optimizer._scalar_slots:
            vector = getattr(optimizer, f"_{name}_slots")
            where[id(vector)] = np.repeat(next(rest), vector.shape[0])
        flat = [theta, *(list(islice(rest, n)) for _ in optimizer._slots)]
        for i, held in enumerate(zip(*map(update.buffers.unflatten, flat), strict=True)):
            own = [update.variables[i], *optimizer._slots_of(i)]
            where |= {id(v): array for v, array in zip(own, held, strict=True)}
        for name in update.readings:
            where[id(getattr(optimizer, name))] = next(rest)[0]
        where[id(optimizer.iterations)] = self.best_steps[k]
        for name, value in update.hyperparameters.items():
            variable = hyperparameter_variable(optimizer, name, update.declared)
            if variable is not None:
                where[id(variable)] = value[k, 0].numpy()
        # Variables that no step changes, such as the count of skipped steps, are 0.
        return [where.get(id(v), np.zeros(v.shape)).astype(_dtype(v)) for v in variables]

    def _zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        return tf.Variable(tf.zeros((self.size, *shape), dtype))

    def _resolve(self, x: Any, y: Any) -> None:
        if self.metrics is None:
            with tf.device("CPU"):
                y_pred = self.template(x[:1], training=False)
            metrics = built_metrics(self.template, tf.convert_to_tensor(y[:1]), y_pred)
            self.metrics = [(metric.name, per_row_metric(metric)) for metric in metrics]
        if self.same_seeds is None:
            pairs = zip(self.others, self.other_values, strict=True)
            seeds = [value.numpy() for v, value in pairs if "seed_generator" in v.path]
            self.same_seeds = all((seed == seed[0]).all() for seed in seeds)

    def _parts(self) -> list[Any]:
        """Returns the tensor (K, ...) of each trainable variable, or the list of K."""
        return self.update.buffers.split(_tensors(self.theta))

    def _values(self, parts: list[Any], same_seeds: bool) -> StackedValues:
        """Returns the values of all variables before a step."""
        held = {id(v): part for v, part in zip(self.update.variables, parts, strict=True)}
        pairs = zip(self.others, self.other_values, strict=True)
        held |= {id(v): tf.convert_to_tensor(value) for v, value in pairs}
        return StackedValues(self.size, held, same_seeds, self.traces)

    def _forward(self, x: Any, values: StackedValues, training: bool) -> Any:
        x = tf.cast(x, self.template.inputs[0].dtype)
        x.set_shape((None, *self.template.inputs[0].shape[1:]))
        x = StackedTensor(self.size, shared=x)
        outputs = forward(self.template, values, training, x)
        (y,) = keras.tree.flatten(outputs)
        return y.stacked

    def _measure(self, y: Any, y_pred: Any) -> tuple[Any, list[Any]]:
        """Returns the mean over rows of the loss and of all metrics, for each model."""
        if len(y.shape) == 1 and len(y_pred.shape) == 3 and y_pred.shape[-1] == 1:
            y = y[:, None]
        y = tf.cast(y, "float32") if y.dtype.is_floating else y
        # The rows of all models as one batch: a loss may count its axes from the batch axis.
        y = tf.repeat(y[None], self.size, axis=0)
        y, y_pred = (tf.reshape(a, tf.concat([[-1], tf.shape(a)[2:]], 0)) for a in (y, y_pred))
        functions = [self.loss, *(function for _, function in self.metrics or ())]
        means = []
        for function in functions:
            values = tf.cast(function(y, y_pred), "float32")
            means.append(tf.reduce_mean(tf.reshape(values, (self.size, -1)), axis=1))
        return means[0], means

    def _penalty(self, values: StackedValues) -> Any:
        """Returns the regularization loss of each model."""
        total = tf.zeros(self.size)
        for variable in self.update.variables:
            holder = variable.regularizer
            for name in PENALTY_ARGUMENTS.get(type(holder), ()):
                w = tf.reshape(values.get(variable), (self.size, -1))
                size = tf.reduce_sum(tf.abs(w) if name == "l1" else tf.square(w), axis=1)
                factor = self.penalty_values[:, self.update.penalty_index[id(holder), name]]
                total += factor * size
        return total

    def _train_steps(self, x: Any, y: Any, batch_size: int, same_seeds: bool) -> Any:
        def step(start: Any, sums: Any) -> Any:
            end = start + batch_size
            return end, sums + self._train_step(x[start:end], y[start:end], same_seeds)

        _, sums = tf.while_loop(
            lambda start, sums: start < tf.shape(x)[0],
            step,
            (0, tf.zeros((1 + len(self.metrics or ()), self.size))),
            parallel_iterations=1,
        )
        return sums

    def _train_step(self, x: Any, y: Any, same_seeds: bool) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            parts = self._parts()
            tape.watch(parts)
            values = self._values(parts, same_seeds)
            loss, means = self._measure(y, self._forward(x, values, training=True))
            means[0] = loss = loss + self._penalty(values)
            total = tf.reduce_sum(loss)
        g = tape.gradient(total, parts)
        self.update(self.theta, g, tf.convert_to_tensor(self.penalty_values))
        for variable, value in zip(self.others, self.other_values, strict=True):
            if id(variable) in values.new:
                value.assign(values.new[id(variable)])
        return tf.stack(means) * tf.cast(tf.shape(x)[0], "float32")

    def _test_step(self, x: Any, y: Any) -> Any:
        values = self._values(self._parts(), True)
        loss, means = self._measure(y, self._forward(x, values, training=False))
        means[0] = loss + self._penalty(values)
        return tf.stack(means) * tf.cast(tf.shape(x)[0], "float32")

    def _logs(self, sums: list[Any], rows: int) -> list[dict[str, float]]:
        means = tf.add_n(sums).numpy() / rows
        names = ["loss", *(name for name, _ in self.metrics or ())]
        return [
            {name: float(mean) for name, mean in zip(names, means[:, k], strict=True)}
            for k in range(self.size)
        ]


class _AnyRows:
    """A step that is traced once for all batch sizes."""

    def __init__(self, step: Any) -> None:
        self.function = tf.function(step, autograph=False)
        self.traced: dict[Any, Any] = {}

    def __call__(self, x: Any, y: Any, *flags: Any) -> Any:
        specs = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in (x, y))
        if (specs, flags) not in self.traced:
            self.traced[specs, flags] = self.function.get_concrete_function(*specs, *flags)
        return self.traced[specs, flags](tf.constant(x), tf.constant(y), *flags)


def _tensors(variables: list[Any]) -> list[Any]:
    return [_tensors(v) if isinstance(v, list) else tf.convert_to_tensor(v) for v in variables]


def _arrays(variables: list[Any]) -> list[np.ndarray]:
    return [read(v.value) for v in variables]


def _untrained(model: Any) -> list[Any]:
    trained = {id(v) for v in model.trainable_variables}
    return [v for v in model.variables if id(v) not in trained]


def _dtype(variable: Any) -> str:
    return keras.backend.standardize_dtype(variable.dtype)
