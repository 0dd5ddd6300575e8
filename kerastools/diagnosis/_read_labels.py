"""Targets in another form than their loss takes, where only one reading of them makes sense."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree

from kerastools._core.graph.calls import read_graph
from kerastools.diagnosis._probe.losses import LossOfOutputs, ignored_class, is_of_keras, loss_name

_BINARY = ("binary_crossentropy", "binary_focal_crossentropy")


@dataclass(frozen=True)
class Reading:
    """How the targets of one output were read.

    Attributes:
        layer: The layer that returns the output.
        evidence: What is wrong with them.
        fix: What mends it in the user's program.
        what: What was done.
    """

    layer: str
    evidence: str
    fix: str
    what: str


def read_labels(
    model: Any, y: Any, loss: LossOfOutputs
) -> tuple[Any, LossOfOutputs, tuple[Reading, ...]]:
    """Returns targets and losses that fit each other, and how they were read.

    What fits already, and what has no reading or more than one, is returned as it is.
    """
    targets = loss.by_output(y) if not isinstance(y, dict) or set(y) >= set(loss.names) else []
    if len(targets) != len(loss.parts):
        return y, loss, ()
    targets, parts, readings = list(targets), list(loss.parts), []
    layers = read_graph(model, "diagnose").output_layers
    for place, part in enumerate(loss.parts):
        if part is None or targets[place] is None or not is_of_keras(part):
            continue
        y_of, shape = np.asarray(targets[place]), tuple(model.outputs[place].shape)
        for read in (_one_hot, _integers, _numbered_otherwise, _two_values):
            if (found := read(loss_name(part), part, y_of, shape)) is not None:
                targets[place], parts[place], *texts = found
                readings.append(Reading(layers[place].name, *texts))
                break
    if not readings:
        return y, loss, ()
    packed = dict(zip(loss.names, targets, strict=True)) if isinstance(y, dict) else (
        tree.pack_sequence_as(y, targets)
    )  # fmt: skip
    return packed, loss.with_parts(parts), tuple(readings)


_Shape = tuple[int | None, ...]
# New targets, new loss, evidence, fix, what was done.
_Found = tuple[Any, Any, str, str, str] | None


def _one_hot(name: str, part: Any, y: np.ndarray, shape: _Shape) -> _Found:
    """One-hot rows for a loss that takes the number of the class."""
    classes = shape[-1]
    if name != "sparse_categorical_crossentropy" or y.ndim != len(shape) or classes in (None, 1):
        return None
    if y.shape[-1] != classes or not (_are_bits(y) and (y.sum(axis=-1) == 1).all()):
        return None
    return (
        y.astype("float32"),
        _like(part, keras.losses.CategoricalCrossentropy),
        f"The targets are one-hot rows of shape {y.shape}; {name} takes the number of the class.",
        'The loss "categorical_crossentropy", or y.argmax(axis=-1) as targets.',
        'loss "categorical_crossentropy"',
    )


def _integers(name: str, part: Any, y: np.ndarray, shape: _Shape) -> _Found:
    """Numbers of classes for a loss that takes one-hot rows."""
    classes = shape[-1]
    if name != "categorical_crossentropy" or classes in (None, 1):
        return None
    numbers = y[..., 0] if y.ndim == len(shape) and y.shape[-1] == 1 else y
    if numbers.ndim != len(shape) - 1 or not _are_classes(numbers, classes):
        return None
    return (
        numbers.astype("int32"),
        _like(part, keras.losses.SparseCategoricalCrossentropy),
        f"The targets, of shape {y.shape}, are numbers of classes; {name} takes one-hot rows.",
        'The loss "sparse_categorical_crossentropy", or keras.utils.to_categorical(y).',
        'loss "sparse_categorical_crossentropy"',
    )


def _numbered_otherwise(name: str, part: Any, y: np.ndarray, shape: _Shape) -> _Found:
    """As many classes as the output has units, but numbered from 1, or by codes."""
    classes = shape[-1]
    numbers = y[..., 0] if y.ndim == len(shape) and y.shape[-1] == 1 else y
    if name != "sparse_categorical_crossentropy" or classes in (None, 1):
        return None
    if numbers.ndim != len(shape) - 1 or numbers.dtype.kind not in "iuf":
        return None
    if ignored_class(part) is not None:
        return None
    codes, numbered = np.unique(numbers, return_inverse=True)
    if len(codes) != classes or _are_classes(codes, classes) or (codes != np.floor(codes)).any():
        return None
    is_shift = bool((np.diff(codes) == 1).all())
    return (
        numbered.reshape(numbers.shape).astype("int32"),
        part,
        f"The {classes} classes are numbered from {codes[0]:g} to {codes[-1]:g}; {name} takes "
        f"numbers from 0 to {classes - 1}, and of others makes NaN or a wrong class.",
        f"y - {codes[0]:g} as targets." if is_shift else "np.unique(y, return_inverse=True)[1].",
        "classes numbered from 0: train with the y of the repair",
    )


def _two_values(name: str, part: Any, y: np.ndarray, shape: _Shape) -> _Found:
    """Two classes for a logistic output that are not called 0 and 1."""
    if name not in _BINARY or y.dtype.kind not in "iuf" or (y.min() >= 0 and y.max() <= 1):
        return None
    values = np.unique(y)
    if len(values) != 2:
        return None
    low, high = values
    return (
        (y == high).astype("float32"),
        part,
        f"The targets go from {low:g} to {high:g}, two values; {name} is unbounded below unless "
        "they are probabilities.",
        f"Labels 0 and 1: (y == {high:g}).astype('float32').",
        "labels 0 and 1: train with the y of the repair",
    )


def _are_bits(y: np.ndarray) -> bool:
    return y.dtype.kind in "biuf" and bool(((y == 0) | (y == 1)).all())


def _are_classes(y: np.ndarray, classes: Any) -> bool:
    """Whether all are numbers of classes."""
    return y.dtype.kind in "iuf" and bool(((y == np.floor(y)) & (y >= 0) & (y < classes)).all())


def _like(part: Any, kind: Callable[..., Any]) -> Any:
    """Returns a loss of another kind with the same `from_logits`."""
    config = part.get_config() if isinstance(part, keras.losses.Loss) else {}
    return kind(from_logits=bool(config.get("from_logits", False)))
