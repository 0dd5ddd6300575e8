"""A few training steps on copies of the weights."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.compiled import compiled
from kerastools._core.graph.calls import read_graph, replay
from kerastools._core.graph.fans import is_kernel
from kerastools._core.keras_private.optimizer_hooks import learning_rate_source, num_replicas
from kerastools._core.replicas import on_every_replica
from kerastools.diagnosis._probe.signals import LossFunction, differentiate, training_pass
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer
from kerastools.optimizers._base.slots import optimizer_tree


@dataclass(frozen=True)
class Steps:
    """What a few training steps did.

    Attributes:
        learning_rate: The learning rate of the first of them.
        losses: The loss before each step, and after the last.
        updates: For each kernel its variable's path, and the norm of its first step relative to its
            own; kernels of norm 0 are left out.
    """

    learning_rate: float
    losses: tuple[float, ...]
    updates: tuple[tuple[str, float], ...]

    @property
    def finite(self) -> bool:
        """Whether every loss is a number."""
        return bool(np.isfinite(self.losses).all())


class Stepper:
    """Trains copies of a model's weights on a few batches, again and again from the same start.

    The model, its random states and its optimizer are left as they are, to the bit.

    Args:
        model: A built functional or Sequential model.
        batches: Pairs (x, y) that are taken in turn.
        loss: Takes targets and predictions; returns a scalar.
        optimizer: What takes the steps; it is copied.
        caller: Named in messages of errors.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[tuple[Any, Any]],
        loss: LossFunction,
        optimizer: Any,
        caller: str,
    ) -> None:
        self._graph = read_graph(model, caller)
        self.variables = list(model.trainable_variables)
        ids = {id(v) for v in self.variables}
        # Moving statistics and random states change in training too.
        self.state = [v for v in model.variables if id(v) not in ids]
        self.batches = batches
        self.optimizer = optimizer
        self.rate = float(ops.convert_to_numpy(optimizer.learning_rate))
        self._loss = loss
        self._programs: dict[bool, Any] = {}
        self._predict = compiled(self._prediction)

    def run(self, factor: float = 1.0, num_steps: int = 20) -> Steps:
        """Takes some steps at `factor` times the learning rate, until the loss is not finite."""
        program = self._program(is_scaled=factor != 1)
        program.restart(self.rate * factor)
        losses = []
        updates: tuple[tuple[str, float], ...] = ()
        for i in range(num_steps + 1):
            losses.append(program.step(*self.batches[i % len(self.batches)]))
            if i == 0:
                updates = self._updates(program.copies)
            if not np.isfinite(losses[-1]):
                break
        return Steps(self.rate * factor, tuple(losses), updates)

    def predictions(self, x: Any) -> list[Any]:
        """Returns the outputs in inference after the steps of the last `run`, flat."""
        values = [ops.convert_to_tensor(v) for v in self._program(False).all_copies]
        return [ops.convert_to_numpy(p) for p in tree.flatten(self._predict(values, x))]

    def _prediction(self, values: list[Any], x: Any) -> Any:
        state = zip([*self.variables, *self.state], values, strict=True)
        with keras.StatelessScope(state):
            return replay(self._graph, x, training=False)

    def _step(self, values: list[Any], state: list[Any], x: Any, y: Any) -> tuple[Any, Any, Any]:
        """Returns the loss, its gradients, and the state after a forward pass."""

        def value_of(values: list[Any]) -> tuple[Any, list[Any]]:
            after: list[Any] = []
            given = zip([*self.variables, *self.state], [*values, *state], strict=True)
            value, _ = training_pass(
                self._graph,
                x,
                y,
                self._loss,
                given,
                keep=lambda scope: after.extend(scope.get_current_value(v) for v in self.state),
            )
            return value, after

        value, after, gradients = differentiate(value_of, values)
        return value, gradients, [ops.convert_to_tensor(a) for a in after]

    def _program(self, is_scaled: bool) -> Any:
        """Returns the compiled steps; for other rates than the optimizer's own, a schedule goes."""
        fixed = isinstance(learning_rate_source(self.optimizer), keras.Variable)
        key = is_scaled and not fixed
        if key not in self._programs:
            config = self.optimizer.get_config()
            if key:
                config["learning_rate"] = self.rate
            optimizer = type(self.optimizer).from_config(config)
            for mine, its in zip(*map(optimizer_tree, (optimizer, self.optimizer)), strict=True):
                if isinstance(mine, MutableOptimizer):
                    mine._take_groups(its)
            self._programs[key] = _Program(self.variables, self.state, optimizer, self._step)
        return self._programs[key]

    def _updates(self, moved: list[Any]) -> tuple[tuple[str, float], ...]:
        ratios = []
        for v, w in zip(self.variables, moved, strict=True):
            before, after = (ops.convert_to_numpy(ops.cast(a, "float32")) for a in (v, w))
            norm = np.linalg.norm(before.astype("float64"))
            if is_kernel(v) and norm > 0:
                ratios.append((v.path, float(np.linalg.norm(after - before) / norm)))
        return tuple(ratios)


class _Program:
    """One training step on copies, compiled; the copies can be set back."""

    def __init__(
        self, variables: list[Any], state: list[Any], optimizer: Any, differentiated: Any
    ) -> None:
        self.originals = [*variables, *state]
        self.all_copies = [_copy(v) for v in self.originals]
        self.copies = self.all_copies[: len(variables)]
        self.state = self.all_copies[len(variables) :]
        self.optimizer = optimizer
        optimizer.build(self.copies)
        self._initial = [ops.copy(v) for v in optimizer.variables]

        # TensorFlow's optimizers assign to variables whatever the scope; on JAX all is passed.
        def step_in_place(x: Any, y: Any) -> Any:
            values, state = _values(self.copies), _values(self.state)
            value, gradients, after = differentiated(values, state, x, y)
            # Every replica has all rows, and the optimizer adds their gradients up.
            optimizer.apply([g / num_replicas() for g in gradients], self.copies)
            if num_replicas() == 1:
                for v, new in zip(self.state, after, strict=True):
                    v.assign(new)
            return value

        def step(values: Any, state: Any, slots: Any, x: Any, y: Any) -> tuple[Any, ...]:
            value, gradients, after = differentiated(values, state, x, y)
            values, slots = optimizer.stateless_apply(slots, gradients, values)
            return value, values, after, slots

        self._in_place = keras.backend.backend() == "tensorflow"
        self._step = compiled(on_every_replica(step_in_place) if self._in_place else step)

    def restart(self, rate: float) -> None:
        """Sets weights and slots to where they began, and the learning rate to `rate`."""
        for v, w in zip(self.originals, self.all_copies, strict=True):
            w.assign(ops.copy(v))
        for slot, value in zip(self.optimizer.variables, self._initial, strict=True):
            slot.assign(ops.copy(value))
        source = learning_rate_source(self.optimizer)
        if isinstance(source, keras.Variable):
            source.assign(rate)

    def step(self, x: Any, y: Any) -> float:
        """Returns the loss before the step that it takes."""
        if self._in_place:
            return float(ops.convert_to_numpy(self._step(x, y)))
        slots = self.optimizer.variables
        loss, *after = self._step(_values(self.copies), _values(self.state), _values(slots), x, y)
        new = [value for part in after for value in part]
        for v, value in zip([*self.all_copies, *slots], new, strict=True):
            v.assign(value)
        return float(ops.convert_to_numpy(loss))


def _values(variables: Any) -> list[Any]:
    return [ops.convert_to_tensor(v) for v in variables]


def _copy(variable: Any) -> Any:
    """Returns a copy under the same path, by which optimizers may group variables."""
    *scopes, name = variable.path.split("/")
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        copied = keras.Variable(ops.copy(variable), dtype=variable.dtype, name=name)
    copied.constraint = variable.constraint
    copied.original = variable  # Which parameter groups ask for.
    return copied
