"""K models of one structure, trained at once in one TensorFlow program."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerastools._core._stacked_keras import built_metrics, compile_arguments, per_row_metric
from kerastools.search._live_models import state_of
from kerastools.search._penalties import NUMBERS, numbers_of, penalties
from kerastools.search._stacked_layers import forward
from kerastools.search._stacked_tensor import StackedTensor
from kerastools.search._stacked_update import StackedUpdate, number_variable
from kerastools.search._stacked_values import StackedValues
from kerastools.search._whole_step import Traced, WholeStep

# Of all models together, in one call of evaluation.
_ROWS_OF_EVALUATION = 1024


class StackedModel:
    """Trains K models together: the weights of all lie in one array (K, P).

    Gradients, update rule and best-epoch copies are then a few operations for all weights of all
    models; only the layers see them one by one. Nothing is computed across models: one that
    diverges, or whose place is given to another, leaves the others as they are.

    Args:
        template: A built and compiled model; what it computes is what all compute.
        size: K.
    """

    def __init__(self, template: Any, size: int) -> None:
        self.template = template
        self.size = size
        self.update = StackedUpdate(template, size)
        self.others = _untrained(template)
        self.theta = self._zeros((sum(self.update.lengths),))
        self.other_values = [self._zeros(tuple(v.shape), v.dtype) for v in self.others]
        self.penalty_numbers = self._zeros((len(penalties(template)),))
        self.state = [self.theta, *self.other_values, *self.update.state]
        self.best = [tf.Variable(v) for v in self.state]
        self.steps = np.zeros(size, int)
        self.best_steps = np.zeros(size, int)
        loss = keras.losses.get(compile_arguments(template)["loss"])
        self.loss = loss.call if isinstance(loss, keras.losses.Loss) else loss
        self.metrics: list[tuple[str, Any]] | None = None
        self.common_seeds: bool | None = None
        self.train_step = _AnyRows(self._train_step)
        self.traced: Traced | None = None
        self.whole_step: WholeStep | None = None
        self.test_step = _AnyRows(self._test_step)
        self.keep_best = _traced(self._keep_best)
        self.put = _traced(self._put)

    def place(self, k: int, model: Any) -> None:
        """Gives place `k` the weights and numbers of a freshly built model, and slots of zeros."""
        others = [ops.convert_to_numpy(v) for v in _untrained(model)]
        self.put(tf.constant(k), _flat(model.trainable_variables), others)
        for name, number in self.update.held(model.optimizer).items():
            self.update.numbers[name][k].assign([number])
        self.penalty_numbers[k].assign(numbers_of(model))
        self.steps[k] = self.best_steps[k] = 0
        self.common_seeds = None

    def train(self, x: Any, y: Any, batch_size: int, order: np.ndarray) -> list[dict[str, float]]:
        """Trains one epoch, the rows in this order; returns what Keras would log, by place."""
        self._resolve(x, y)
        sums = []
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            sums.append(self._step(x[rows], y[rows]))
            self.steps += 1
        return self._logs(sums, len(x))

    def evaluate(self, x: Any, y: Any, batch_size: int) -> list[dict[str, float]]:
        """Returns what Keras would log of validation, by place."""
        self._resolve(x, y)
        rows = max(batch_size, _ROWS_OF_EVALUATION // self.size)
        starts = range(0, len(x), rows)
        sums = [self.test_step(x[i : i + rows], y[i : i + rows]) for i in starts]
        logs = self._logs(sums, len(x))
        return [{f"val_{name}": value for name, value in log.items()} for log in logs]

    def compile_with_xla(self, batch_size: int) -> bool:
        """Has XLA compile the steps of whole batches from now on; false if it would not do."""
        if self.whole_step is None and WholeStep.fits(self.template, self.traced):
            self.whole_step = WholeStep(self, batch_size)
        return self.whole_step is not None

    def remember(self, improved: np.ndarray) -> None:
        """Keeps the state of the models that are better than ever."""
        if improved.any():
            self.keep_best(tf.constant(improved))
        self.best_steps[improved] = self.steps[improved]

    def best_arrays(self, k: int) -> list[np.ndarray]:
        """Returns the best state of place `k` as `state_of` a single model would give it."""
        optimizer, update = self.template.optimizer, self.update
        theta, *rest = (v[k].numpy() for v in self.best)
        variables = state_of(self.template)  # Builds the optimizer.
        others, rest = rest[: len(self.others)], rest[len(self.others) :]
        slots, readings = rest[: len(update.slots)], rest[len(update.slots) :]
        where: dict[int, Any] = {id(v): o for v, o in zip(self.others, others, strict=True)}
        ends = np.cumsum(update.lengths)[:-1]
        names = optimizer.scalar_slots
        flat = [np.split(part, ends) for part in (theta, *slots[len(names) :])]
        for i, variable in enumerate(update.variables):
            held = [variable, *optimizer.slots_of(i)]
            where |= {id(v): p[i].reshape(v.shape) for v, p in zip(held, flat, strict=True)}
        for name, slot in zip(names, slots, strict=False):
            vector = getattr(optimizer, f"{name}_slots")
            where[id(vector)] = np.repeat(slot, vector.shape[0])
        for name, reading in zip(update.readings, readings, strict=True):
            where[id(getattr(optimizer, name))] = reading[0]
        where[id(optimizer.iterations)] = self.best_steps[k]
        for name, number in update.numbers.items():
            variable = number_variable(optimizer, name, update.declared)
            if variable is not None:
                where[id(variable)] = number[k, 0].numpy()
        # What nothing moves, as the count of skipped steps, is as it was.
        return [where.get(id(v), np.zeros(v.shape)).astype(_dtype(v)) for v in variables]

    def weights(self, k: int) -> list[np.ndarray]:
        """Returns the present weights of model `k`, in the order of `get_weights`."""
        parts = np.split(self.theta[k].numpy(), np.cumsum(self.update.lengths)[:-1])
        pairs = zip(self.update.variables, parts, strict=True)
        where = {id(v): p.reshape(v.shape) for v, p in pairs}
        where |= {id(v): o[k].numpy() for v, o in zip(self.others, self.other_values, strict=True)}
        return [where[id(v)] for v in self.template.weights]

    def _zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        return tf.Variable(tf.zeros((self.size, *shape), dtype))

    def _resolve(self, x: Any, y: Any) -> None:
        if self.metrics is None:
            with tf.device("CPU"):
                y_pred = self.template(x[:1], training=False)
            metrics = built_metrics(self.template, tf.convert_to_tensor(y[:1]), y_pred)
            self.metrics = [(metric.name, per_row_metric(metric)) for metric in metrics]
        if self.common_seeds is None:
            pairs = zip(self.others, self.other_values, strict=True)
            seeds = [value.numpy() for v, value in pairs if "seed_generator" in v.path]
            self.common_seeds = all((seed == seed[0]).all() for seed in seeds)

    def _step(self, x: Any, y: Any) -> Any:
        if self.whole_step is not None and len(x) == self.whole_step.rows:
            try:
                return self.whole_step(x, y, self.common_seeds)
            except tf.errors.OpError:  # XLA lacks something; nothing was trained.
                self.whole_step = None
        return self.train_step(x, y, self.common_seeds)

    def values(self, common_seeds: bool, drawn: list[Any] | None = None) -> StackedValues:
        """Returns the values of the variables before a step."""
        update = self.update
        parts = tf.split(tf.convert_to_tensor(self.theta), update.lengths, axis=1)
        held = {
            id(v): tf.reshape(part, (self.size, *shape))
            for v, part, shape in zip(update.variables, parts, update.shapes, strict=True)
        }
        pairs = zip(self.others, self.other_values, strict=True)
        held |= {id(v): tf.convert_to_tensor(value) for v, value in pairs}
        return StackedValues(self.size, held, common_seeds, drawn)

    def _forward(self, x: Any, values: StackedValues, training: bool) -> Any:
        x = tf.cast(x, self.template.inputs[0].dtype)
        x.set_shape((None, *self.template.inputs[0].shape[1:]))
        x = StackedTensor(self.size, common=x)
        outputs = forward(self.template, values, training, x)
        (y,) = keras.tree.flatten(outputs)
        return y.members

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

    def _penalty(self, values: StackedValues) -> Any:
        """Returns the sum of each model's regularizers."""
        total = tf.zeros(self.size)
        for variable in self.update.variables:
            holder = variable.regularizer
            for name in NUMBERS.get(type(holder), ()):
                w = tf.reshape(values.get(variable), (self.size, -1))
                size = tf.reduce_sum(tf.abs(w) if name == "l1" else tf.square(w), axis=1)
                number = self.penalty_numbers[:, self.update.places[id(holder), name]]
                total += number * size
        return total

    def _train_step(
        self, x: Any, y: Any, common_seeds: bool, drawn: list[Any] | None = None
    ) -> Any:
        with tf.GradientTape() as tape:
            values = self.values(common_seeds, drawn)
            loss, means = self._measure(y, self._forward(x, values, training=True))
            means[0] = loss = loss + self._penalty(values)
            total = tf.reduce_sum(loss)
        g = tape.gradient(total, self.theta)
        theta = tf.convert_to_tensor(self.theta)
        self.theta.assign(self.update(theta, g, tf.convert_to_tensor(self.penalty_numbers)))
        for variable, value in zip(self.others, self.other_values, strict=True):
            if id(variable) in values.new:
                value.assign(values.new[id(variable)])
        self.traced = Traced(tf.compat.v1.get_default_graph(), values.draws)
        return tf.stack(means) * tf.cast(tf.shape(x)[0], "float32")

    def _test_step(self, x: Any, y: Any) -> Any:
        values = self.values(True)
        loss, means = self._measure(y, self._forward(x, values, training=False))
        means[0] = loss + self._penalty(values)
        return tf.stack(means) * tf.cast(tf.shape(x)[0], "float32")

    def _put(self, k: Any, theta: Any, others: list[Any]) -> None:
        self.theta[k].assign(theta)
        for value, new in zip(self.other_values, others, strict=True):
            value[k].assign(new)
        for state in self.update.state:
            state[k].assign(tf.zeros_like(state[0]))

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


class _AnyRows:
    """A step that is traced once for batches of any number of rows; y is as it comes."""

    def __init__(self, step: Any) -> None:
        self.function = tf.function(step, autograph=False)
        self.traced: dict[Any, Any] = {}

    def __call__(self, x: Any, y: Any, *flags: Any) -> Any:
        specs = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in (x, y))
        if (specs, flags) not in self.traced:
            self.traced[specs, flags] = self.function.get_concrete_function(*specs, *flags)
        return self.traced[specs, flags](tf.constant(x), tf.constant(y))


def _traced(step: Any) -> Any:
    return tf.function(step, reduce_retracing=True, autograph=False)


def _untrained(model: Any) -> list[Any]:
    trained = {id(v) for v in model.trainable_variables}
    return [v for v in model.variables if id(v) not in trained]


def _flat(variables: list[Any]) -> np.ndarray:
    return np.concatenate([ops.convert_to_numpy(v).ravel() for v in variables])


def _dtype(variable: Any) -> str:
    return keras.backend.standardize_dtype(variable.dtype)
