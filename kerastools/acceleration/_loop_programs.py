"""Many training or test steps in one compiled call, on each backend."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerastools._core.keras_private.patched import unpatched
from kerastools._core.keras_private.training import symbolic_build
from kerastools.acceleration._loop_data import Stack

_FEW = 100  # As many tests run one by one cost what it costs to make a loop of them.


def programs_of(model: Any, kind: str, static_rows: Any = None) -> Any:
    """Returns the compiled steps of `model`; `kind` is `"train"` or `"test"`."""
    if keras.backend.backend() == "tensorflow":
        return TensorFlowPrograms(model, kind, static_rows)
    return JaxPrograms(model, kind)


class TensorFlowPrograms:
    """One traced step, inside a loop over the stack; the loop plain and with XLA.

    The step is the costly thing to trace, so there is one trace of it for all. The plain loop takes
    any number of batches of any number of rows; XLA needs one shape, so its stack is padded. The
    first test steps, which in a short training are all there are, run without a loop.
    """

    def __init__(self, model: Any, kind: str, static_rows: list[int | None] | None) -> None:
        self.model, self.kind, self.static_rows = model, kind, static_rows
        self.spec: list[Any] = []
        self.compiled: dict[Any, Callable[..., Any]] = {}
        self.before_loop = _FEW if kind == "test" else 0

    def run(self, program: str, state: Any, stack: Stack, length: int) -> tuple[Any, Any]:
        """Runs the stack; with XLA it is padded to `length` batches."""
        leaves = [a for a in keras.tree.flatten(stack.data) if a is not None]
        self._trace(stack.data, leaves)
        key: Any = None
        if program == "xla" and stack.is_usual and stack.num <= length:
            shapes = tuple((length, *a.shape[1:]) for a in leaves)
            if shapes in self.compiled or not any(self.compiled):  # XLA for one shape only.
                key = shapes
                leaves = [_padded(a, length) for a in leaves]
        if key is None and stack.num <= self.before_loop:
            self.before_loop -= stack.num
            steps = [self.step(self._structured([a[i] for a in leaves])) for i in range(stack.num)]
            return steps[-1], state
        if key not in self.compiled:
            self.compiled[key] = self._loop(key)
        return self.compiled[key](np.int32(stack.num), *leaves), state

    def trace(self, stack: Stack) -> None:
        """Traces the step for batches like these, if that has not been done."""
        self._trace(stack.data, [a for a in keras.tree.flatten(stack.data) if a is not None])

    @property
    def num_operations(self) -> int:
        """Operations that run in a step, each of which costs a dispatch."""
        # A loop runs its body once for every time step: the second axis of sequences and tokens.
        timed = [s for s in self.spec if len(s.shape) > (1 if s.dtype.is_integer else 2)]
        steps = max([int(s.shape[1] or 1) for s in timed], default=1)
        graph = self.step.graph.as_graph_def()
        bodies = {op.attr["body"].func.name for op in graph.node if "body" in op.attr}
        inner = [len(f.node_def) for f in graph.library.function if f.signature.name in bodies]
        return len(graph.node) + steps * sum(inner)

    @property
    def num_loops(self) -> int:
        """Loops in the graph of a step: recurrent layers."""
        return sum("While" in op.type for op in self.step.graph.get_operations())

    @property
    def has_convolutions(self) -> bool:
        """Whether a step convolves, which XLA may do up to 20 times slower on a CPU."""
        return any("Conv" in op.type for op in self.step.graph.get_operations())

    def _trace(self, data: Any, leaves: list[np.ndarray]) -> None:
        import tensorflow as tf

        rows = self.static_rows or [None] * len(leaves)
        shapes = [
            [n if n == a.shape[1] else None, *a.shape[2:]] if a.ndim > 1 else []
            for n, a in zip(rows, leaves, strict=True)
        ]
        if len(leaves) == len(self.spec):
            known = [s.shape for s in self.spec]
            if all(k.is_compatible_with(a.shape[1:]) for k, a in zip(known, leaves, strict=True)):
                return
            # Sequences of another length, or other rows: from now on they vary.
            shapes = [
                [m if m == n else None for m, n in zip(k, shape, strict=True)]
                for k, shape in zip(known, shapes, strict=True)
            ]
        self.compiled = {}
        self._build(data)
        self.spec = [
            tf.TensorSpec(shape, a.dtype if a.dtype != object else tf.string)
            for shape, a in zip(shapes, leaves, strict=True)
        ]
        self.layout = data
        self.step = self._step(self.spec)

    def _step(self, specs: list[Any]) -> Any:
        """Returns the traced step for batches of these specifications."""
        import tensorflow as tf

        step = getattr(self.model, f"{self.kind}_step")
        return tf.function(
            tf.autograph.experimental.do_not_convert(lambda batch: step(batch))
        ).get_concrete_function(self._structured(specs))

    def _structured(self, leaves: Any) -> Any:
        """Returns the leaves in the structure of a batch."""
        leaves = iter(leaves)
        return keras.tree.map_structure(lambda a: None if a is None else next(leaves), self.layout)

    def _build(self, data: Any) -> None:
        """Creates slots and metrics first; a step that creates variables is traced twice."""
        model = self.model
        name = f"{self.kind}_step"
        if model.built and unpatched(model, name) is getattr(keras.Model, name):
            batch = keras.tree.map_structure(lambda a: None if a is None else a[0], data)
            with contextlib.suppress(Exception):  # Then it is traced twice, as Keras does.
                symbolic_build(model, batch)

    def _loop(self, xla_shapes: Any) -> Callable[..., Any]:
        import tensorflow as tf

        step, shapes = self.step, [[None, *s.shape] for s in self.spec]
        if xla_shapes:
            shapes = xla_shapes
            # XLA differentiates a loop only where all shapes are known.
            if self.num_loops and any(None in s.shape for s in self.spec):
                pairs = zip(shapes, self.spec, strict=True)
                step = self._step([tf.TensorSpec(shape[1:], s.dtype) for shape, s in pairs])

        def loop(num: Any, *stacked: Any) -> Any:
            logs = tf.nest.map_structure(
                lambda t: tf.zeros(t.shape, t.dtype), step.structured_outputs
            )

            def body(i: Any, logs: Any) -> Any:
                return i + 1, step(self._structured([a[i] for a in stacked]))

            return tf.while_loop(lambda i, logs: i < num, body, (0, logs), parallel_iterations=1)[1]

        signature = [tf.TensorSpec((), tf.int32)] + [
            tf.TensorSpec(shape, s.dtype) for shape, s in zip(shapes, self.spec, strict=True)
        ]
        return tf.function(
            tf.autograph.experimental.do_not_convert(loop),
            input_signature=signature,
            jit_compile=xla_shapes is not None,
        )


class JaxPrograms:
    """The jitted step, and the same step in a loop whose stack is padded to one length."""

    def __init__(self, model: Any, kind: str) -> None:
        import jax

        self.shapes: list[Any] = []
        self.step = jax.jit(getattr(model, f"{kind}_step"), donate_argnums=0)
        self.loop = jax.jit(self._loop, donate_argnums=0)

    def trace(self, stack: Stack) -> None:
        """Does nothing: JAX traces where it runs."""

    def run(self, program: str, state: Any, stack: Stack, length: int) -> tuple[Any, Any]:
        """Runs the stack; a loop takes `length` batches, so that it is compiled once."""
        shapes = [a.shape[1:] for a in keras.tree.flatten(stack.data) if a is not None]
        self.shapes = self.shapes or shapes  # The loop is compiled for these only.
        if program != "single" and stack.num <= length and shapes == self.shapes:
            data = keras.tree.map_structure(
                lambda a: None if a is None else _padded(a, length), stack.data
            )
            return self.loop(state, data, stack.num)
        logs: Any = None
        for i in range(stack.num):
            batch = keras.tree.map_structure(lambda a, i=i: None if a is None else a[i], stack.data)
            logs, state = self.step(state, batch)
        return logs, state

    def _loop(self, state: Any, data: Any, num: Any) -> tuple[Any, Any]:
        def batch(i: Any) -> Any:
            return keras.tree.map_structure(lambda a: None if a is None else a[i], data)

        return jax_loop(self.step, state, batch, num)


def jax_loop(step: Callable[..., Any], state: Any, batch: Callable[..., Any], num: Any) -> Any:
    """Returns the logs and the state after `num` steps, each on `batch(i)`; to be compiled."""
    import jax

    def body(i: Any, carry: Any) -> Any:
        return step(carry[1], batch(i))

    logs, _ = jax.eval_shape(step, state, batch(0))
    zeros = jax.tree.map(lambda t: jax.numpy.zeros(t.shape, t.dtype), logs)
    return jax.lax.fori_loop(0, num, body, (zeros, state))


def _padded(stacked: np.ndarray, length: int) -> np.ndarray:
    missing = length - stacked.shape[0]
    if not missing:
        return stacked
    filler = np.zeros((missing, *stacked.shape[1:]), stacked.dtype)
    return np.concatenate([stacked, filler])
