"""K models of one structure, trained in one JAX program."""

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools._core.keras_private.training import symbolic_build
from kerastools.acceleration._loop_programs import jax_loop
from kerastools.search._reuse.model_cache import state_of
from kerastools.search._stacked.eligibility import is_mean_over_rows

# Rows per call of evaluation, over all models.
_ROWS_OF_EVALUATION = 1024
_STEPS_PER_CALL = 64  # Ctrl-C takes effect between calls.


class VmappedModel:
    """Trains K models together: `jax.vmap` of Keras's own step over K states, with shared batches.

    The state of a model is all that its step reads and updates: weights, statistics, seeds, mutable
    hyperparameters, optimizer slots, step count and metrics. So whatever Keras can train on JAX
    trains here. Models do not depend on each other: one that diverges, or whose slot is reloaded,
    leaves the others unchanged.

    Args:
        template: A built and compiled model; all models compute the same.
        size: K, the number of slots.
    """

    def __init__(self, template: Any, size: int) -> None:
        self.template = template
        self.size = size
        self.state = [[_repeated(v, size) for v in part] for part in _parts(template)]
        self.best = jax.tree.map(jnp.copy, self.state)
        self.metrics: list[Any] | None = None
        self.train_step = jax.vmap(template.train_step, in_axes=(0, None))
        self.train_loop = jax.jit(self._train_loop, donate_argnums=0)
        self.test_step = jax.jit(jax.vmap(template.test_step, in_axes=(0, None)))
        self.select_best = jax.jit(_select, donate_argnums=2)

    def load(self, models: dict[int, Any]) -> None:
        """Loads the states of freshly built models into slots."""
        slots = jnp.array(list(models))
        fresh = zip(*map(_parts, models.values()), strict=True)
        self.state = [
            [
                held.at[slots].set(jnp.stack([v.value for v in new]))
                for held, *new in zip(mine, *parts, strict=True)
            ]
            for mine, parts in zip(self.state, fresh, strict=True)
        ]

    def train(self, x: Any, y: Any, batch_size: int, order: np.ndarray) -> list[dict[str, float]]:
        """Trains one epoch on the rows in this order; returns the logs of each slot."""
        state = (*self.state, self._fresh_metrics(x, y))
        x, y = jnp.asarray(x), jnp.asarray(y)
        whole = len(order) // batch_size
        batches = np.asarray(order[: whole * batch_size]).reshape(whole, batch_size)
        logs: Any = None
        for start in range(0, whole, _STEPS_PER_CALL):
            rows = np.zeros((min(whole, _STEPS_PER_CALL), batch_size), "int32")
            group = batches[start : start + _STEPS_PER_CALL]
            rows[: len(group)] = group
            logs, state = self.train_loop(state, x, y, rows, len(group))
        if len(order) > whole * batch_size:
            logs, state = self.train_loop(state, x, y, order[None, whole * batch_size :], 1)
        self.state = list(state[:3])
        return self._logs(logs)

    def evaluate(self, x: Any, y: Any, batch_size: int) -> list[dict[str, float]]:
        """Returns the validation logs of each slot."""
        trainable, others, _ = self.state
        metrics = self._fresh_metrics(x, y)
        rows = batch_size
        if is_mean_over_rows(compile_arguments(self.template)["loss"]):
            rows = max(batch_size, _ROWS_OF_EVALUATION // self.size)
        logs: Any = None
        for i in range(0, len(x), rows):
            logs, (_, _, metrics) = self.test_step(
                (trainable, others, metrics), (x[i : i + rows], y[i : i + rows])
            )
        return [{f"val_{name}": value for name, value in log.items()} for log in self._logs(logs)]

    def keep_best(self, improved: np.ndarray) -> None:
        """Copies the state of the models that improved."""
        if improved.any():
            self.best = self.select_best(improved, self.state, self.best)

    def best_state(self, k: int) -> list[np.ndarray]:
        """Returns the best state of slot `k`, in the order of `state_of(model)`."""
        pairs = zip(_parts(self.template), self.best, strict=True)
        where = {id(v): a for mine, held in pairs for v, a in zip(mine, held, strict=True)}
        return [np.array(where[id(v)][k]) for v in state_of(self.template)]

    def _train_loop(self, state: Any, x: Any, y: Any, rows: Any, num: Any) -> tuple[Any, Any]:
        def step(state: Any, batch: Any) -> tuple[Any, Any]:
            logs, state = self.train_step(state, batch)
            return logs, tuple(map(list, state))

        return jax_loop(step, state, lambda i: (x[rows[i]], y[rows[i]]), num)

    def _fresh_metrics(self, x: Any, y: Any) -> list[Any]:
        if self.metrics is None:
            symbolic_build(self.template, (x[:1], y[:1]))
            self.metrics = [np.array(v) for v in self.template.metrics_variables]
        return [jnp.repeat(value[None], self.size, 0) for value in self.metrics]

    def _logs(self, logs: Any) -> list[dict[str, float]]:
        arrays = {name: np.asarray(value) for name, value in logs.items()}
        return [{name: float(a[k]) for name, a in arrays.items()} for k in range(self.size)]


def _parts(model: Any) -> list[list[Any]]:
    """Returns the variables of `model`, grouped as Keras's step takes them."""
    state_of(model)  # Builds the optimizer.
    return [model.trainable_variables, model.non_trainable_variables, model.optimizer.variables]


def _repeated(variable: Any, size: int) -> Any:
    return jnp.repeat(variable.value[None], size, 0)


def _select(improved: Any, new: Any, old: Any) -> Any:
    def choose(a: Any, b: Any) -> Any:
        return jnp.where(improved.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)
