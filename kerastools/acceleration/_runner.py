"""The function that `fit` and `evaluate` call for every step, which runs many at once."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kerastools.acceleration._choice import _Choice
from kerastools.acceleration._loop_data import Batches, Stack, StreamBatches
from kerastools.acceleration._loop_programs import programs_of
from kerastools.acceleration._row_weights import _RowWeights


class _Runner:
    """Runs ahead: at the first step of a group it computes all, the others find it done.

    Attributes:
        ahead: Steps that are computed but that `fit` has not counted yet. Zero exactly at the
            borders between groups, where callbacks are let through.
    """

    def __init__(self, model: Any, kind: str, choice: _Choice, plan: Any) -> None:
        self.model, self.kind, self.choice, self.plan = model, kind, choice, plan
        self.programs: Any = None
        self.weights = _RowWeights(model, training=kind == "train")
        self.ahead = 0
        self._batches: Any = None
        self._logs: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Is called as Keras calls it: (iterator), or on JAX (state, iterator)."""
        *state, iterator = arguments
        if iterator is not self._batches:
            self._batches, self.ahead = iterator, 0
        if self.ahead:
            self.ahead -= 1
        else:
            state = self._advance(state)
        # Only the last step of a group has something to tell; Keras would convert it every time.
        logs = {} if self.ahead else self._logs
        return (logs, *state) if state else logs

    def _advance(self, state: list[Any]) -> list[Any]:
        batches = self._batches
        if not isinstance(batches, Batches):  # train_on_batch and test_on_batch.
            batches = StreamBatches(batches)
        _, most = self.choice.next()
        try:
            group = batches.take(self.plan.most(most, batches.at_start))
        except StopIteration:
            self.plan.end_epoch()
            raise
        if self.programs is None:
            self.programs = programs_of(self.model, self.kind, batches.static_rows)
        for stack in group.stacks:
            state = self._run(state, stack)
        self.ahead = group.steps - 1
        self.plan.done += group.steps
        return state

    def _run(self, state: list[Any], stack: Stack) -> list[Any]:
        start = _clocks()
        self.programs.trace(stack)
        if self.choice.beginning:
            size, left = _bytes(stack), self.plan.left()
            self.choice.begin(_seconds_since(start), size, left, self.programs)
        program = self.choice.program
        before = self.weights.before(stack, state)
        try:
            self._logs, new_state = self.programs.run(
                program, tuple(map(list, state[0])) if state else None, stack, self.choice.length
            )
        except Exception:
            if not self.choice.compiling_on_trial:
                raise
            self.choice.give_up()
            return self._run(state, stack)
        if before is not None:
            new_state = self.weights.after(before, stack, new_state)
        if stack.is_usual:
            self._note(stack, start)
        return [tuple(map(_Values, new_state))] if state else state

    def _note(self, stack: Stack, start: tuple[float, ...]) -> None:
        if self.choice.measuring:
            _wait_for(self._logs)
            left = self.plan.left() - stack.num
            self.choice.record(stack.num, _seconds_since(start), _bytes(stack), left, self.programs)
        self.choice.count()


class _Values(Sequence):
    """The values of variables on JAX, between two calls.

    Keras's `fit` keeps them as an attribute of the model after each step, where it looks through
    every list and tuple for layers, for longer than a small step takes. This is neither.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._values = list(values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]


def _clocks() -> tuple[float, ...]:
    """Returns the wall clock and, where all work is done by this process, its CPU time.

    On a machine that others use the wall clock also counts waiting for them; with several threads
    at work the CPU time exceeds it. The smaller difference is the better measure.
    """
    if any(not device.startswith("cpu") for device in keras.distribution.list_devices()):
        return (time.perf_counter(),)
    return time.perf_counter(), time.process_time()


def _seconds_since(start: tuple[float, ...]) -> float:
    return min(now - then for now, then in zip(_clocks(), start, strict=True))


def _bytes(stack: Stack) -> int:
    """Returns the size of a batch."""
    leaves = [a for a in keras.tree.flatten(stack.data) if a is not None]
    return sum(a.nbytes for a in leaves) // stack.num


def _wait_for(logs: Any) -> None:
    for value in keras.tree.flatten(logs):
        np.asarray(keras.ops.convert_to_numpy(value))
