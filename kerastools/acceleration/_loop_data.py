"""Data as Keras would batch it, handed out as stacks of many batches."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerastools._core.keras_private.data_adapters import (
    ArrayRows,
    DataAdapter,
    array_rows,
    get_data_adapter,
)

LastBatch = Callable[[int, int], str]
"""What becomes of a last batch of `rows` where the others have `size`: keep, drop or merge."""


@dataclass(frozen=True)
class Stack:
    """Equal batches, one behind the other along a new first axis.

    Attributes:
        data: The structure of a batch, of NumPy arrays.
        num: How many batches.
        weight: The rows of each as a part of a full batch's rows.
    """

    data: Any
    num: int
    weight: float = 1.0

    @property
    def is_usual(self) -> bool:
        """Whether the batches have as many rows as most, so that compiling for them pays."""
        return self.weight == 1.0


@dataclass(frozen=True)
class Group:
    """What is computed in one go, and how many of the caller's steps that is."""

    stacks: list[Stack]
    steps: int


class Batches:
    """Iterator over the batches of an epoch that hands out many at once.

    Attributes:
        static_rows: The first axis of each leaf of every batch, where the data set promises it.
    """

    static_rows: list[int | None] | None = None

    def __init__(self, per_epoch: int | None = None) -> None:
        self.per_epoch = per_epoch
        self.done = 0

    @property
    def at_start(self) -> bool:
        """Whether the next batch is the first of an epoch."""
        return not (self.done % self.per_epoch if self.per_epoch else self.done)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        """Returns one batch, as Keras's iterators do."""
        data = self.take(1).stacks[0].data
        return keras.tree.map_structure(lambda a: None if a is None else a[0], data)

    def take(self, most: int) -> Group:
        """Returns the next batches, at most `most`; raises `StopIteration` at the end."""
        left = None if self.per_epoch is None else self.per_epoch - self.done % self.per_epoch
        group = self._take(most if left is None else min(most, left), left)
        if group is None:
            raise StopIteration
        self.done += group.steps
        return group

    def _take(self, most: int, left: int | None) -> Group | None:
        raise NotImplementedError


class ArrayBatches(Batches):
    """Batches cut from arrays: one gather for all batches of a stack."""

    def __init__(
        self, rows: ArrayRows, size: int, last: LastBatch, per_epoch: int | None = None
    ) -> None:
        super().__init__(per_epoch)
        self.rows, self.size, self.last = rows, size, last
        self.order: Any = None
        self.at = 0

    def _take(self, most: int, left: int | None) -> Group | None:
        if self.order is None:
            self.order = self.rows.order()  # At the first batch, as in Keras: it draws.
        total, size = len(self.order), self.size
        whole, rest = divmod(total - self.at, size)
        num = min(most, whole)
        steps = num
        if not num:
            if not rest:
                return None
            if self.at and self.last(rest, size) == "drop":
                self.at = total
                return Group([], 1)
            return Group([self._stack(1, rest)], 1)
        fate = "keep"
        if num == whole and rest and (left is None or left > num):
            fate = self.last(rest, size)
        stacks = []
        if fate == "merge":
            stacks = [self._stack(num - 1, size)] if num > 1 else []
            stacks.append(self._stack(1, size + rest))
        else:
            stacks.append(self._stack(num, size))
        if fate == "drop":
            self.at = total
        return Group(stacks, steps + (fate != "keep"))

    def _stack(self, num: int, size: int) -> Stack:
        picked = self.order[self.at : self.at + num * size]
        self.at += num * size
        data = keras.tree.map_structure(
            lambda a: None if a is None else a.reshape(num, size, *a.shape[1:]),
            self.rows.take(picked),
        )
        return Stack(data, num, size / self.size)


class StreamBatches(Batches):
    """Batches that come one by one, collected as long as their shapes are equal."""

    def __init__(
        self, source: Iterator[Any], last: LastBatch | None = None, per_epoch: int | None = None
    ) -> None:
        super().__init__(per_epoch)
        self.source, self.last = source, last
        self.waiting: deque[Any] = deque()
        self.size: int | None = None

    def __next__(self) -> Any:
        """Returns one batch and draws no other: Keras begins a `fit` with one, on JAX."""
        batch = self._peek()
        if batch is None:
            raise StopIteration
        self.done += 1
        return self.waiting.popleft()

    def _take(self, most: int, left: int | None) -> Group | None:
        first = self._peek()
        if first is None:
            return None
        rows = _num_rows(first)
        self.size = size = self.size or rows
        batches = [self.waiting.popleft()]
        while len(batches) < most and _alike(self._peek(), first):
            batches.append(self.waiting.popleft())
        steps = len(batches)
        merged = None
        if self.last is not None and rows and (left is None or left > steps):
            rest = self._peek()
            few = _num_rows(rest) if _alike(rest, first, rows=False) else None
            if few and few < rows and not self._peek(1):
                fate = self.last(few, rows)
                if fate != "keep":
                    self.waiting.popleft()
                    steps += 1
                if fate == "merge":
                    merged = _joined(np.concatenate, [batches.pop(), rest])
        stacks = []
        if batches:
            data = _joined(np.stack, batches)
            stacks.append(Stack(data, len(batches), rows / size if rows and size else 1.0))
        if merged is not None:
            weight = (_num_rows(merged) or 1) / (size or 1)
            stacks.append(Stack(_joined(np.stack, [merged]), 1, weight))
        return Group(stacks, steps)

    def _peek(self, ahead: int = 0) -> Any:
        while len(self.waiting) <= ahead:
            batch = next(self.source, None)
            if batch is None:
                return None
            self.waiting.append(keras.tree.map_structure(_dense, batch))
        return self.waiting[ahead]


class StackingAdapter(DataAdapter):
    """Wraps the adapter that Keras would have made, so that `fit` iterates over `Batches`."""

    def __init__(
        self, data: dict[str, Any], steps: int | None, last: LastBatch, fixed: bool = False
    ) -> None:
        shown = {"batch_size": None, "shuffle": False, "class_weight": None, **data}
        self.inner = get_data_adapter(steps_per_epoch=steps, **shown)
        cap = keras.config.max_steps_per_epoch()
        self.per_epoch = min(steps or cap, cap) if cap else steps
        self.last = last
        self.static_rows: list[int | None] | None = None
        self.not_dense: str | None = None
        self.rows = array_rows(self.inner)
        if self.rows is not None:
            self.not_dense = self.rows.not_dense
            if fixed and not self.inner.has_partial_batch:
                batch = keras.tree.flatten(self.rows.take(np.zeros(1, int)))
                self.static_rows = [self.inner.batch_size for a in batch if a is not None]
        elif keras.backend.backend() == "tensorflow":
            self._dataset = self.inner.get_tf_dataset()
            self._read_specs(keras.tree.flatten(self._dataset.element_spec))

    def _read_specs(self, specs: list[Any]) -> None:
        import tensorflow as tf

        present = [s for s in specs if hasattr(s, "shape")]  # `None` of Keras has no shape.
        sparse = [type(s).__name__ for s in present if not isinstance(s, tf.TensorSpec)]
        self.not_dense = sparse[0].removesuffix("Spec") if sparse else None
        self.static_rows = [s.shape[0] if s.shape.rank else None for s in present]

    def __iter__(self) -> Batches:
        if self.rows is not None:
            arrays = ArrayBatches(self.rows, self.inner.batch_size, self.last, self.per_epoch)
            arrays.static_rows = self.static_rows
            return arrays
        if keras.backend.backend() == "tensorflow":
            source = iter(self._dataset)
        else:
            source = iter(self.inner.get_jax_iterator())
        last = self.last if self.inner.num_batches is not None else None
        batches = StreamBatches(source, last, self.per_epoch)
        batches.static_rows = self.static_rows
        return batches

    def get_tf_dataset(self) -> Any:
        """Returns this; Keras only iterates over it."""
        return self

    def get_jax_iterator(self) -> Any:
        """Returns an iterator over one epoch."""
        return iter(self)

    get_numpy_iterator = get_jax_iterator

    def get_torch_dataloader(self) -> Any:
        """Is never called: `accelerate` refuses the backend."""
        raise NotImplementedError

    @property
    def num_batches(self) -> int | None:
        """Batches in an epoch, as Keras counts them."""
        return self.inner.num_batches

    @property
    def batch_size(self) -> int | None:
        """Rows of a full batch."""
        return self.inner.batch_size

    @property
    def has_partial_batch(self) -> bool | None:
        """Whether the last batch is smaller."""
        return self.inner.has_partial_batch

    @property
    def partial_batch_size(self) -> int | None:
        """Rows of the last batch where it is smaller."""
        return self.inner.partial_batch_size

    @property
    def adapters(self) -> list[Any]:
        """The adapters of Keras's that are told of epochs."""
        return [self.inner] if self.rows is None else [self.inner, self.rows.numbers]

    def on_epoch_begin(self) -> None:
        """Tells Keras's adapters."""
        for adapter in self.adapters:
            adapter.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tells Keras's adapters."""
        for adapter in self.adapters:
            adapter.on_epoch_end()


_NOT_DENSE = (
    "An accelerated fit needs dense data, because batches of sparse or ragged data cannot be "
    "stacked. Received {}. Convert it to dense, or call accelerate(model, steps_per_call=1) first, "
    "which gives Keras's own fit back."
)


def _dense(leaf: Any) -> Any:
    """Returns a leaf of a batch as a NumPy array; an empty `tf.Optional` is Keras's `None`."""
    if leaf is None or hasattr(leaf, "get_value"):
        return None
    if any(hasattr(leaf, name) for name in ("dense_shape", "row_splits", "todense")):
        raise ValueError(_NOT_DENSE.format(type(leaf).__name__))
    return np.asarray(leaf)


def _leaves(batch: Any) -> list[np.ndarray]:
    return [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]


def _num_rows(batch: Any) -> int | None:
    """Returns the rows of a batch; None where the first axes differ: it has no rows then."""
    sizes = {leaf.shape[0] for leaf in _leaves(batch) if leaf.ndim}
    return sizes.pop() if len(sizes) == 1 else None


def _alike(a: Any, b: Any, rows: bool = True) -> bool:
    if a is None or b is None:
        return False
    start = 0 if rows else 1
    shapes = [[leaf.shape[start:] for leaf in _leaves(batch)] for batch in (a, b)]
    return shapes[0] == shapes[1]


def _joined(how: Callable[..., Any], batches: list[Any]) -> Any:
    return keras.tree.map_structure(
        lambda *leaves: None if leaves[0] is None else how(leaves), *batches
    )
