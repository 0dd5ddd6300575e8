"""The layers of a model at every depth: finding them by name, and freezing and unfreezing them."""

import contextlib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.graph_nodes import layers_inside


@dataclass(frozen=True)
class TrainableState:
    """Which layers and which single variables are trainable.

    Attributes:
        layers: (layer, flag) of every layer, the model itself included.
        variables: (variable, flag) of every weight.
    """

    layers: tuple[tuple[Any, bool], ...]
    variables: tuple[tuple[Any, bool], ...]

    def set(self) -> bool:
        """Sets every flag and returns whether one of them changed."""
        before = [a.trainable for a, _ in self.layers] + [v.trainable for v, _ in self.variables]
        # A setter overwrites all inside. A layer holds fewer layers than any that holds it.
        for layer, flag in sorted(self.layers, key=lambda pair: -len(sublayers(pair[0]))):
            layer.trainable = flag
        for variable, flag in self.variables:
            variable.trainable = flag
        return before != [flag for _, flag in self.layers + self.variables]


class LayerTree:
    """Every layer inside a built model, with its path, such as `"trunk/block_1/conv"`.

    Also knows which weights may train at all: not moving statistics, not weights that were frozen
    one by one (`layer.kernel.trainable = False`), and not the kernel under a LoRA update, all of
    which Keras unfreezes when `layer.trainable` goes from False to True.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.paths = list(_walk(model, ""))
        self.layers = sublayers(model)[1:]
        self._own = {id(layer): _own_weights(layer) for layer in sublayers(model)}
        self._may_train = self._find_candidates()

    def select(self, selector: Any, caller: str) -> list[Any]:
        """Returns the layers that `selector` names, or raises `ValueError`.

        Args:
            selector: A layer of the model; or a string, read in this order until one reading finds
                something: `"all"`; the path of a layer; its name at any depth; a glob such as
                `"conv_*"`; a regular expression that matches a whole name or path, such as
                `"a|b"`; `"head"`, the last layer that has weights. A list joins several.
            caller: Named in the message of an error.
        """
        if isinstance(selector, list | tuple):
            found = [layer for one in selector for layer in self.select(one, caller)]
            return list({id(layer): layer for layer in found}.values())
        if isinstance(selector, keras.Layer):
            if any(layer is selector for layer in self.layers):
                return [selector]
            raise ValueError(
                f'{caller} needs layers of model "{self.model.name}". Received the layer '
                f'"{selector.name}", which is not in it. The model has {self._names()}.'
            )
        if not isinstance(selector, str):
            raise ValueError(
                f"{caller} needs a layer, a name, a pattern, or a list of them. Received "
                f"{selector!r} of type {type(selector).__name__}."
            )
        found = self._by_string(selector)
        if not found:
            raise ValueError(
                f'{caller} found no layer for {selector!r} in model "{self.model.name}", neither '
                "as a name or path nor as a glob or a regular expression. The model has "
                f"{self._names()}."
            )
        return found

    def weights_of(self, layers: Iterable[Any]) -> list[Any]:
        """Returns the weights that train when `layers`, with all inside them, are not frozen."""
        inside = {id(part) for layer in layers for part in sublayers(layer)}
        chosen = {
            id(v) for key, own in self._own.items() if key in inside for v in own
        } & self._may_train
        return [v for v in self.model.weights if id(v) in chosen]

    def levels(self, selector: Any, caller: str) -> list[list[Any]]:
        """Returns the weights of each level of `selector`, the topmost level first.

        The entries of a list are levels, from the top down. Otherwise each layer with weights is
        one, together with the normalisation above it; the last layer of the model is the topmost.
        """
        if isinstance(selector, list | tuple):
            groups = [self.select(one, caller) for one in selector]
        else:
            inside = {id(p) for a in self.select(selector, caller) for p in sublayers(a)}
            units = self.units(lambda path, layer: id(layer) in inside)
            groups = [[layer for _, layer in unit] for unit in reversed(units)]
        seen: set[int] = set()
        levels = []
        for group in groups:
            weights = [v for v in self.weights_of(group) if id(v) not in seen]
            seen |= {id(v) for v in weights}
            levels.append(weights)
        return levels

    def units(self, wanted: Callable[[str, Any], bool]) -> list[list[tuple[str, Any]]]:
        """Returns those of `owners` that are `wanted`, each normalisation with the layer below."""
        units: list[list[tuple[str, Any]]] = []
        for path, layer in self.owners():
            if wanted(path, layer):
                if units and is_kind(layer, "normalization"):
                    units[-1].append((path, layer))
                else:
                    units.append([(path, layer)])
        return units

    def owners(self) -> list[tuple[str, Any]]:
        """Returns (path, layer) of layers with trainable weights of their own, the lowest first."""
        first = {id(layer): (path, layer) for path, layer in reversed(self.paths)}
        return [
            (path, layer)
            for path, layer in self.paths
            if first[id(layer)][0] == path
            and any(id(v) in self._may_train for v in self._own[id(layer)])
        ]

    def state_training(self, layers: Iterable[Any]) -> TrainableState:
        """Returns the flags with which `layers`, and all inside them, train and no others."""
        layers = list(layers)
        inside = {id(part) for layer in layers for part in sublayers(layer)}
        weights = {id(v) for v in self.weights_of(layers)}
        # A parent of something that trains is trainable too, or it would hide its child's weights.
        flags = [(a, any(id(b) in inside for b in sublayers(a))) for a in self.layers]
        variables = [(v, id(v) in weights) for v in self.model.weights]
        return TrainableState(((self.model, True), *flags), tuple(variables))

    def current_state(self) -> TrainableState:
        """Returns the flags as they are."""
        return TrainableState(
            tuple((layer, layer.trainable) for layer in sublayers(self.model)),
            tuple((v, v.trainable) for v in self.model.weights),
        )

    def _by_string(self, text: str) -> list[Any]:
        if text == "all":
            return list(self.layers)
        for reading in _readings(text):
            found = {id(layer): layer for path, layer in self.paths if reading(path, layer.name)}
            if found:
                return list(found.values())
        if text == "head":
            return [layer for layer in _children(self.model) if self.weights_of([layer])][-1:]
        return []

    def _names(self) -> str:
        names = [path for path, layer in self.paths if layer.weights]
        shown = ", ".join(f'"{name}"' for name in names[:20])
        return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown

    def _find_candidates(self) -> set[int]:
        before = self.current_state()
        pinned = {
            id(v)
            for layer in sublayers(self.model)
            for v in self._own[id(layer)]
            if (layer.trainable and not v.trainable) or _is_lora_base(layer, v)
        }
        try:
            # Keras knows which weights are made to train, but tells only while they do. On
            # TensorFlow setting True where True stands does nothing, not even to what is inside.
            for flag in (False, True):
                for layer in sublayers(self.model):
                    layer.trainable = flag
            return {id(v) for v in self.model.trainable_weights} - pinned
        finally:
            before.set()


def _walk(layer: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields (path, layer) of every layer inside `layer`, a shared one under each of its paths."""
    for child in _children(layer):
        yield prefix + child.name, child
        yield from _walk(child, f"{prefix}{child.name}/")


def _children(layer: Any) -> list[Any]:
    return layers_inside(layer, recursive=False)


def _readings(text: str) -> Iterator[Callable[[str, str], bool]]:
    """Yields the ways to read `text`, each a predicate of a layer's path and name."""
    yield lambda path, name: path == text
    yield lambda path, name: name == text
    yield lambda path, name: any(fnmatch.fnmatchcase(s, text) for s in (path, name))
    with contextlib.suppress(re.error):
        regex = re.compile(text)
        yield lambda path, name: any(regex.fullmatch(s) for s in (path, name))


def _own_weights(layer: Any) -> list[Any]:
    inner = {id(v) for part in sublayers(layer)[1:] for v in part.weights}
    return [v for v in layer.weights if id(v) not in inner]


def _is_lora_base(layer: Any, variable: Any) -> bool:
    """Whether `variable` is the kernel, or the embeddings, that a LoRA update stands on."""
    return bool(getattr(layer, "lora_enabled", False)) and any(
        v.name.startswith(f"lora_{variable.name}") for v in layer.weights
    )
