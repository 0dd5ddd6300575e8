"""The step of a stacked model on a whole batch, compiled by XLA."""

from typing import Any

import keras
import tensorflow as tf

# What XLA computes many times slower than TensorFlow's own kernels on a CPU.
_SLOW = ("Conv", "Pool", "While", "Resize")


class Traced:
    """What a step turned out to consist of when it was traced.

    Attributes:
        operations: The kinds of TensorFlow's operations in it.
        draws: What random numbers it draws: seed state, shape and layout.
    """

    def __init__(self, graph: Any, draws: list[tuple[Any, Any, str]]) -> None:
        self.operations = {operation.type for operation in graph.get_operations()}
        self.draws = draws


class WholeStep:
    """Trains on a batch of the usual size; another size has a shape that XLA would compile anew.

    XLA draws other random numbers from a seed than TensorFlow. So they are drawn by TensorFlow
    before, and a model has the masks that it would have alone.

    Args:
        stacked: The stacked model, of which one step was traced.
        rows: How many rows the batches have.
    """

    def __init__(self, stacked: Any, rows: int) -> None:
        self.stacked = stacked
        self.rows = rows
        self.draws = stacked.traced.draws
        options = {"autograph": False, "reduce_retracing": True}
        self.inner = tf.function(stacked._train_step, jit_compile=True, **options)
        self.outer = tf.function(self._draw_and_step, **options)

    @staticmethod
    def fits(template: keras.Model, traced: Traced | None) -> bool:
        """Whether XLA may pay for a model, and all that it draws can be drawn before."""
        if traced is None or any(slow in kind for kind in traced.operations for slow in _SLOW):
            return False
        states = {id(state) for state, _, _ in traced.draws}
        seeds = [v for v in template.non_trainable_variables if "seed_generator" in v.path]
        static = all(isinstance(n, int) for _, shape, _ in traced.draws for n in shape[1:])
        return static and all(id(seed) in states for seed in seeds)

    def __call__(self, x: Any, y: Any, common_seeds: bool | None) -> Any:
        """Trains on one batch; returns what the step of the stacked model does."""
        return self.outer(x, y, common_seeds)

    def _draw_and_step(self, x: Any, y: Any, common_seeds: bool) -> Any:
        values = self.stacked.values(common_seeds)
        drawn = [values.uniform(s, (self.rows, *shape[1:]), held) for s, shape, held in self.draws]
        return self.inner(x, y, common_seeds, drawn)
