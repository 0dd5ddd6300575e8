"""The loss that a model is judged by, and the labels that fit it."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.graph.calls import read_graph


class LossOfOutputs:
    """The sum over a model's outputs of the mean loss of each.

    Attributes:
        parts: One loss function per output, in the order of the outputs; `None` is left out.
        names: Names of the outputs, where losses and targets are dictionaries.
    """

    def __init__(self, parts: list[Any], names: list[str]) -> None:
        self.parts = parts
        self.names = names

    def __call__(self, y: Any, predictions: Any) -> Any:
        """Returns the scalar loss."""
        pairs = zip(self.parts, self.by_output(y), self.by_output(predictions), strict=True)
        return sum(ops.mean(part(_like(a, b, part), b)) for part, a, b in pairs if part is not None)

    def by_output(self, values: Any) -> list[Any]:
        """Returns `values`, of any structure, as a list in the order of the outputs."""
        if isinstance(values, dict):
            return [values[name] for name in self.names]
        return tree.flatten(values)


def resolve_loss(model: Any, loss: Any, caller: str) -> LossOfOutputs:
    """Returns the loss function of `model`: `loss`, or else the one that it was compiled with."""
    loss = loss if loss is not None else getattr(model, "loss", None)
    if loss is None:
        raise ValueError(
            f'{caller} needs a loss. Received model "{model.name}", not compiled with one. '
            'Pass it, as in loss="mse", or call model.compile(loss=...).'
        )
    names = _output_names(model, caller)
    if isinstance(loss, dict):
        unknown = sorted(set(loss) - set(names))
        if unknown:
            raise ValueError(
                f"{caller} needs losses for the outputs {names}. Received losses for {unknown}."
            )
        parts = [loss.get(name) for name in names]
    elif isinstance(loss, list | tuple):
        parts = list(loss)
    else:
        parts = [loss] * len(names)
    if len(parts) != len(names):
        raise ValueError(
            f"{caller} needs one loss for each of the outputs {names}. "
            f"Received {len(parts)} losses."
        )
    return LossOfOutputs([keras.losses.get(part) for part in parts], names)


def _output_names(model: Any, caller: str) -> list[str]:
    """Returns the keys of a dictionary of outputs, or else the names of the layers that end it."""
    graph = read_graph(model, caller)
    if isinstance(graph.output_structure, dict):
        # Keras flattens a dictionary by its sorted keys.
        return tree.flatten({name: name for name in graph.output_structure})
    producers = [graph.producer(t) for t in graph.outputs]
    return [p.operation.name if p else "" for p in producers]


def check_labels(model: Any, y: Any, loss: LossOfOutputs, caller: str) -> None:
    """Raises unless each target has the shape and the values that its loss needs."""
    if isinstance(y, dict) and set(y) < set(loss.names):
        raise ValueError(
            f"{caller} needs targets for the outputs {loss.names}. "
            f"Received targets for {sorted(y)}."
        )
    targets = loss.by_output(y)
    if len(targets) != len(loss.names):
        raise ValueError(
            f"{caller} needs one target for each of the outputs {loss.names}. "
            f"Received {len(targets)} arrays."
        )
    for part, target, output in zip(loss.parts, targets, model.outputs, strict=True):
        # What a loss of the user's own expects is unknown.
        if is_of_keras(part):
            _check_label(loss_name(part), np.asarray(target), tuple(output.shape), caller)


def _check_label(loss: str, y: np.ndarray, output: tuple[int | None, ...], caller: str) -> None:
    shape = y.shape[:-1] if y.ndim == len(output) and y.shape[-1] == 1 else y.shape
    if "sparse" in loss:
        num_classes = output[-1]
        if not _fits(shape, output[:-1]):
            raise ValueError(
                f"{caller} needs integer labels of shape {output[:-1]} for the loss {loss} and an "
                f"output of shape {output}. Received y of shape {y.shape}. For one-hot labels use "
                "the loss categorical_crossentropy."
            )
        if (y != np.floor(y)).any() or y.min() < 0 or (num_classes and y.max() >= num_classes):
            raise ValueError(
                f"{caller} needs labels from 0 to {(num_classes or 0) - 1} for an output of shape "
                f"{output}. Received labels from {y.min()} to {y.max()}. Number the classes "
                "from 0, or give the output layer more units."
            )
    elif not (_fits(y.shape, output) or (output[-1] == 1 and _fits(shape, output[:-1]))):
        raise ValueError(
            f"{caller} needs y of the output's shape {output} for the loss {loss}. Received y of "
            f"shape {y.shape}. Keras would broadcast it silently. For integer class labels use the "
            "loss sparse_categorical_crossentropy; otherwise reshape y."
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    pairs = list(zip(shape[1:], wanted[1:], strict=False))
    return len(shape) == len(wanted) and all(w is None or n == w for n, w in pairs)


def _like(y: Any, prediction: Any, part: Any) -> Any:
    """Returns `y` with the last axis of size 1 that the output has, as `fit` brings it to."""
    missing = len(y.shape) == len(prediction.shape) - 1 and prediction.shape[-1] == 1
    return ops.expand_dims(y, -1) if missing and "sparse" not in loss_name(part) else y


def loss_name(part: Any) -> str:
    """Returns the name of a loss, such as `"mean_squared_error"`."""
    return str(getattr(part, "name", None) or getattr(part, "__name__", type(part).__name__))


def is_of_keras(part: Any) -> bool:
    """Whether it is known what a loss takes; not so for functions and classes of the user's own."""
    function = not isinstance(part, keras.losses.Loss) and hasattr(part, "__module__")
    return str(part.__module__ if function else type(part).__module__).startswith("keras.")
