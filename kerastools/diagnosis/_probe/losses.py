"""The loss that a model is judged by, and the labels that fit it."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import tree

from kerastools._core.graph.calls import read_graph
from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools._core.keras_private.optimizer_hooks import num_replicas
from kerastools._core.notices import KerastoolsNotice

# What a model trains on: inputs, targets and sample weights, which may be None.
Batch = tuple[Any, Any, Any]


class LossOfOutputs:
    """What `fit` minimizes: the weighted losses of the outputs, regularizers and `add_loss`.

    Keras computes it, in a model on the same layers that is compiled with these losses. Where the
    class of the model has a `compute_loss` of its own, that is called.

    Attributes:
        parts: One loss function per output, in the order of the outputs; `None` is left out.
        names: Names of the outputs, where losses and targets are dictionaries.
    """

    def __init__(
        self, model: Any, parts: list[Any], names: list[str], weights: Any, is_own: bool = False
    ) -> None:
        self.parts = parts
        self.names = names
        self._model = model
        self._weights = weights
        self._is_own = is_own and _replaces(model, "compute_loss")
        graph = read_graph(model, "diagnose")
        self._structure = graph.output_structure
        self._compiled = model
        if not self._is_own:
            self._compiled = keras.Model(graph.input_structure, self._structure, name=model.name)
            is_any = any(part is not None for part in parts)
            self._compiled.compile(
                keras.optimizers.SGD(name="sgd"),
                self.packed(self.parts) if is_any else None,
                loss_weights=self.packed(self.weights) if is_any else None,
            )

    def __call__(self, batch: Batch, predictions: Any) -> Any:
        """Returns the scalar loss; to be called where the model has just been run."""
        x, y, weights = batch
        compute_loss = self._compiled.compute_loss
        loss = compute_loss(x=x, y=y, y_pred=predictions, sample_weight=weights)
        # Keras divides it among replicas, but here every replica has all rows.
        return loss * num_replicas() if num_replicas() > 1 else loss

    def build(self, y: Any) -> None:
        """Makes the variables in which Keras keeps a mean per output; not to be done in a trace."""
        probe = keras.Operation("probe")
        probe.call = lambda y, p: self._compiled.compute_loss(y=y, y_pred=p)

        def spec(a: Any) -> Any:
            dtype = keras.backend.standardize_dtype(a.dtype)
            return None if a is None else keras.KerasTensor((None, *a.shape[1:]), dtype)

        probe.compute_output_spec(tree.map_structure(spec, y), self._structure)

    def with_parts(self, parts: list[Any]) -> "LossOfOutputs":
        """Returns the same with other loss functions."""
        return LossOfOutputs(self._model, parts, self.names, self._weights)

    def with_weights(self, weights: list[float]) -> "LossOfOutputs":
        """Returns the same with other weights of the outputs."""
        return LossOfOutputs(self._model, self.parts, self.names, weights)

    def of(self, model: Any) -> "LossOfOutputs":
        """Returns the same for another model with these outputs."""
        return LossOfOutputs(model, self.parts, self.names, self._weights, self._is_own)

    @property
    def weights(self) -> list[float]:
        """The weight of each output."""
        weights = self._weights
        if isinstance(weights, dict):
            weights = [weights.get(name, 1.0) for name in self.names]
        flat = [1.0] * len(self.parts) if weights is None else tree.flatten(weights)
        return [1.0 if w is None else float(w) for w in flat]

    @property
    def is_unknown(self) -> bool:
        """Whether it is not made of a loss for each output."""
        return self._is_own or all(part is None for part in self.parts)

    def packed(self, values: list[Any]) -> Any:
        """Returns a list by output in the structure that `compile` takes."""
        if len(values) == 1 and not isinstance(self._structure, dict):
            return values[0]
        return tree.pack_sequence_as(self._structure, values)

    def by_output(self, values: Any) -> list[Any]:
        """Returns `values`, of any structure, as a list in the order of the outputs."""
        if isinstance(values, dict):
            return [values.get(name) for name in self.names]
        flat = [] if values is None else list(tree.flatten(values))
        used = [part is not None for part in self.parts]
        if len(flat) == sum(used) != len(used):  # Outputs without a loss need no targets.
            found = iter(flat)
            flat = [next(found) if is_used else None for is_used in used]
        return flat


def resolve_loss(model: Any, loss: Any, caller: str) -> LossOfOutputs:
    """Returns what `model` minimizes with `loss`, or else as it was compiled."""
    weights, is_own = None, False
    names = _output_names(model, caller)
    if loss is None:
        if not getattr(model, "compiled", False):
            raise ValueError(
                f'{caller} needs a loss. Received model "{model.name}", not compiled with one. '
                'Pass it, as in loss="mse", or call model.compile(loss=...).'
            )
        arguments = compile_arguments(model)
        loss, weights = arguments.get("loss"), arguments.get("loss_weights")
        is_own = _replaces(model, "compute_loss")
        if _replaces(model, "train_step"):
            warnings.warn(
                f"{caller} does not run the train_step of {type(model).__name__}: it judges what "
                "compute_loss returns.",
                KerastoolsNotice,
                stacklevel=3,
            )
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
    return LossOfOutputs(model, [keras.losses.get(part) for part in parts], names, weights, is_own)


def _replaces(model: Any, method: str) -> bool:
    """Whether the class of a model, or the model, has a method of its own in place of Keras's."""
    return method in vars(model) or getattr(type(model), method) is not getattr(keras.Model, method)


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
    needed = [n for n, part in zip(loss.names, loss.parts, strict=True) if part is not None]
    if isinstance(y, dict) and not set(needed) <= set(y):
        raise ValueError(
            f"{caller} needs targets for the outputs {needed}. Received targets for {sorted(y)}."
        )
    targets = loss.by_output(y)
    if len(targets) != len(loss.names) and needed:
        raise ValueError(
            f"{caller} needs one target for each of the outputs {loss.names}. "
            f"Received {len(targets)} arrays."
        )
    for part, target, output in zip(loss.parts, targets, model.outputs, strict=False):
        # What a loss of the user's own expects is unknown.
        if part is not None and target is not None and is_of_keras(part):
            y_of = np.asarray(target)
            ignored = ignored_class(part)
            _check_label(loss_name(part), y_of, tuple(output.shape), ignored, caller)


def _check_label(
    loss: str, y: np.ndarray, output: tuple[int | None, ...], ignored: int | None, caller: str
) -> None:
    shape = y.shape[:-1] if y.ndim == len(output) and y.shape[-1] == 1 else y.shape
    if "sparse" in loss:
        num_classes = output[-1]
        if not _fits(shape, output[:-1]):
            raise ValueError(
                f"{caller} needs integer labels of shape {output[:-1]} for the loss {loss} and an "
                f"output of shape {output}. Received y of shape {y.shape}. For one-hot labels use "
                "the loss categorical_crossentropy."
            )
        y = y[y != ignored] if ignored is not None else y
        if y.size and (y.min() < 0 or (num_classes and y.max() >= num_classes)):
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


def ignored_class(part: Any) -> int | None:
    """Returns the class that a loss leaves out, or `None`."""
    return getattr(part, "ignore_class", None)


def loss_name(part: Any) -> str:
    """Returns the name of a loss, such as `"mean_squared_error"`."""
    return str(getattr(part, "name", None) or getattr(part, "__name__", type(part).__name__))


def is_of_keras(part: Any) -> bool:
    """Whether it is known what a loss takes; not so for functions and classes of the user's own."""
    function = not isinstance(part, keras.losses.Loss) and hasattr(part, "__module__")
    return str(part.__module__ if function else type(part).__module__).startswith("keras.")
