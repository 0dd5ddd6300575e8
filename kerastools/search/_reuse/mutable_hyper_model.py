"""A `HyperModel` of a compiled model, whose mutable hyperparameters are searched."""

from collections.abc import Callable
from typing import Any

import keras
import keras_tuner

from kerastools import layers
from kerastools._core.graph.calls import has_graph, sublayers
from kerastools._core.graph.rebuild import copy_operation, copy_state, layer_from_config, rebuild
from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools.layers._mutable_rate import MutableRateLayer
from kerastools.optimizers import SGD, Adagrad, Adam, Adamax, AdamW, Nadam, RMSprop
from kerastools.regularization._mutable_dropout import net_kind
from kerastools.search._checks import require_compiled_model
from kerastools.search._reuse.description import vocabulary_of
from kerastools.search._spaces import betas, dropout, learning_rate, momentum

_CALLER = "MutableHyperModel"
# Keras's optimizers whose class of the same name here has mutable hyperparameters.
_OPTIMIZERS: dict[type, Any] = {
    getattr(keras.optimizers, cls.__name__): cls
    for cls in (SGD, Adagrad, RMSprop, Adam, AdamW, Adamax, Nadam)
}
# By the layer of Keras that each of ours extends.
_MUTABLE = {
    base: cls
    for cls in vars(layers).values()
    if isinstance(cls, type)
    for base in cls.__bases__
    if not hasattr(base, "rate_variable")
}


class MutableHyperModel(keras_tuner.HyperModel):
    """HyperModel of a compiled model: searches its dropout rate, learning rate, momentum or betas.

    For a model that was not written for a search. Each trial trains a copy of it, with the same
    layers, loss and metrics, new weights and its own hyperparameters. What a layer learned in
    `adapt`, as `Normalization` does, is kept. Searched are:

    - `dropout`: one rate for all dropout layers, also in nested models, in the range for the kind
      of net (recurrent 0.2 to 0.3, convolutional 0.4 to 0.5, else 0.1 to 0.5). Keras's `Dropout`,
      `AlphaDropout` and `SpatialDropout1D` to `3D` are replaced by those of `kerastools.layers`,
      whose rate is mutable. Dropout within another layer (recurrent cells, attention, a wrapped
      layer) and `GaussianDropout` are left as they are;
    - `learning_rate`: from a tenth of the model's to ten times it, unless it is a schedule;
    - `1 - momentum` for SGD; `1 - beta_1` and `1 - beta_2` for Adam and its variants. Keras's SGD
      and Adam are replaced by those of `kerastools.optimizers`, with the same update rule.

    Args:
        model: A compiled functional or Sequential model, or a function without arguments that
            returns one.

    Raises:
        TypeError: If it is neither.
        ValueError: If the model is not compiled, or subclassed; from `build`, if an adapted layer
            cannot be copied.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.5),
    ...     keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> hp = keras_tuner.HyperParameters()
    >>> copy = MutableHyperModel(model).build(hp)
    >>> sorted(hp.values)
    ['1 - beta_1', '1 - beta_2', 'dropout', 'learning_rate']
    """

    def __init__(self, model: keras.Model | Callable[[], keras.Model]) -> None:
        super().__init__()
        if not isinstance(model, keras.Model) and callable(model):
            model = model()
        require_compiled_model(model, _CALLER)
        if not isinstance(model, keras.Sequential) and not getattr(model, "operations", None):
            raise ValueError(
                "MutableHyperModel needs a functional or Sequential model, which it can copy. "
                f'Received "{model.name}" of class {type(model).__name__}. Write build(hp).'
            )
        self.model = model

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Returns a compiled copy of the model for the hyperparameters of one trial."""
        rate: list[float] = []  # Asked for once, and only if there is a dropout layer.

        def copy(layer: Any) -> Any:
            if type(layer) is keras.Sequential:  # It is not built.
                parts = [copy(part) for part in layer.layers]
                return keras.Sequential(parts, trainable=layer.trainable, name=layer.name)
            cls: Any = _MUTABLE.get(type(layer), type(layer))
            if issubclass(cls, MutableRateLayer):
                if not rate:
                    rate.append(dropout(hp, net_kind(self.model)))
                return cls.from_config(layer.get_config() | {"rate": rate[0]})
            return adapted_like(layer, _CALLER)

        model: Any
        if has_graph(self.model):
            model = rebuild(self.model, _CALLER, lambda path, layer: (copy(layer), False))
        else:
            model = copy(self.model)
        arguments = compile_arguments(self.model)
        arguments["optimizer"] = _optimizer(self.model.optimizer, hp)
        for name in ("metrics", "weighted_metrics"):
            arguments[name] = keras.tree.map_structure(_fresh, arguments[name])
        model.compile(**arguments)
        return model


def _optimizer(given: Any, hp: keras_tuner.HyperParameters) -> Any:
    config = given.get_config()
    cls: Any = _OPTIMIZERS.get(type(given), type(given))
    rate = config["learning_rate"]
    if isinstance(rate, float | int) and rate > 0:
        config["learning_rate"] = learning_rate(hp, float(f"{rate / 10:.4g}"), min(1.0, rate * 10))
    if "beta_1" in config and "beta_2" in config:
        config["beta_1"], config["beta_2"] = betas(hp)
    elif "momentum" in config and "rho" not in config:
        config["momentum"] = momentum(hp)
    return cls.from_config(config)


def _fresh(metric: Any) -> Any:
    """Returns a new metric of the same configuration."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric


def adapted_like(layer: Any, caller: str) -> Any:
    """Returns a copy of `layer` with new weights, adapted as it is.

    Raises:
        ValueError: If it cannot be copied, or the copy has other variables.
    """
    found = vocabulary_of(layer)
    new = layer_from_config(layer, found, caller) if found else copy_operation(layer, caller)
    parts = sublayers(layer)
    if any(hasattr(part, "adapt") for part in parts):
        for part, twin in zip(parts, sublayers(new), strict=True):
            if hasattr(part, "adapt") and part.built:
                if not twin.built:
                    twin.build_from_config(part.get_build_config())
                copy_state(part, twin, caller)
    return new
