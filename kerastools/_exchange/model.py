"""A model with the parts of plain Keras for those of this package, or the other way round."""

import inspect
from typing import Any

import keras

from kerastools._core.checks import require_built
from kerastools._core.graph.calls import Call, has_graph, sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools._core.graph.rebuild import copy_assets, rebuild
from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools._core.keras_private.optimizer_state import copied
from kerastools._core.notices import notify
from kerastools._exchange.optimizers import NoCounterpartError, converted
from kerastools._exchange.parts import Swap, exchanged, leftovers, of_keras, of_ours
from kerastools.layers._mutable_rate import MutableRateLayer


def from_keras(model: Any) -> Any:
    """Returns a copy of a Keras model with the optimizer, dropout and max-norm of this package.

    Optimizers that kerastools has under Keras's name, the dropout layers and `MaxNorm` are
    replaced; weights, slots, step counts, random states and what the model was compiled with are
    kept. `fit` goes on where the original would, and hyperparameters and dropout rates can then be
    changed while it runs. What has no counterpart stays Keras's, which a `KerastoolsNotice` says.

    Args:
        model: A built model; it is left alone. A subclassed model is made again by its
            `get_config`; layers that its own code makes stay Keras's.

    Returns:
        A new model.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, or a layer cannot be made again from its configuration.

    Example:

    >>> layers = [keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    >>> model = keras.Sequential([keras.Input((2,)), *layers])
    >>> model.compile("adam", "mse")
    >>> model = from_keras(model)
    >>> model.optimizer.beta_1 = 0.8
    >>> model.layers[1].rate = 0.1
    """
    return _exchanged(model, of_ours, to_keras=False)


def to_keras(model: Any) -> Any:
    """Returns a copy of a model with Keras's own parts, which loads without kerastools.

    Optimizer, dropout layers, constraints and initializers of this package are replaced by Keras's;
    weights, slots, step counts, random states and what the model was compiled with are kept, so
    that `fit` goes on where the original would. Save the copy and hand it on.

    Where Keras has no optimizer that takes the same steps (`RAdam`, `param_groups`,
    `epsilon_mode="outside"`, ...) the copy is not compiled, and a `KerastoolsNotice` says what is
    why.

    Args:
        model: A built model; it is left alone. A subclassed model is made again by its
            `get_config`.

    Returns:
        A new model in which nothing of kerastools is left.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, a layer cannot be made again from its configuration, or a
            part has no counterpart in Keras.

    Example:

    >>> import kerastools
    >>> layers = [keras.layers.Dense(4), kerastools.layers.Dropout(0.5), keras.layers.Dense(1)]
    >>> model = keras.Sequential([keras.Input((2,)), *layers])
    >>> model.compile(kerastools.optimizers.Adam(), "mse")
    >>> type(to_keras(model).layers[1]) is keras.layers.Dropout
    True
    """
    return _exchanged(model, of_keras, to_keras=True)


def _exchanged(model: Any, swap: Swap, to_keras: bool) -> Any:
    caller = "to_keras" if to_keras else "from_keras"
    require_built(model, caller)
    plain = type(model).__module__.split(".")[0] == "keras"
    copy = _copied_graph if plain and has_graph(model) else _copied_from_config
    new, twins = copy(model, swap, caller)
    new.trainable = model.trainable if not new.layers else new.trainable
    if to_keras and (left := leftovers(new)):
        raise ValueError(
            f"to_keras found no counterpart in Keras for {', '.join(left[:5])}. Replace it, or "
            "have the code that makes it use Keras's."
        )
    notices: list[str] = []
    if getattr(model, "compiled", False):
        try:
            _compile_alike(model, new, to_keras, twins, notices)
        except NoCounterpartError as reason:
            notices.append(f"the new model is not compiled, because {reason}")
    for text in notices:
        notify(f"{caller}: {text}", stacklevel=4)
    return new


def _copied_graph(model: Any, swap: Swap, caller: str) -> tuple[Any, dict[int, Any]]:
    """Returns a model of the same graph, and its variable for each of the old ones by id."""
    changed: list[int] = []
    pairs: dict[int, tuple[Any, Any]] = {}

    def change(path: str, layer: Any) -> tuple[Any, bool] | None:
        new = None if is_kind(layer, "lambda") else _twin(layer, swap)
        if new is None:
            return None
        changed.append(id(layer))
        return new, False

    def connect(call: Call, new: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(new, keras.Layer) and not has_graph(call.operation):
            pairs[id(call.operation)] = call.operation, new
        return new(*args, **kwargs)

    made = rebuild(model, caller, change, connect)
    for key, (old, new) in pairs.items():
        if key in changed:
            _copy_state(old, new, caller)
    return made, {
        id(v): w
        for old, new in pairs.values()
        for v, w in zip(old.weights, new.weights, strict=True)
    }


def _twin(layer: Any, swap: Swap) -> Any:
    """Returns the layer of the other side, or `None` if nothing in it is to be exchanged."""
    try:
        whole = keras.saving.serialize_keras_object(layer)
    except Exception:
        return None  # Copying it says why.
    new = exchanged(whole, swap, layer)
    if new == whole:
        return None
    if new["registered_name"] == whole["registered_name"]:
        return type(layer).from_config(new["config"])
    return keras.saving.deserialize_keras_object({**new, "build_config": None})


def _copied_from_config(model: Any, swap: Swap, caller: str) -> tuple[Any, dict[int, Any]]:
    """Returns a model of the same class and configuration, and its variables as above."""
    cls = type(model)
    try:
        if inspect.signature(cls).parameters:
            new = cls.from_config(exchanged(model.get_config(), swap, model))
        else:
            new = cls()
        if not new.built:
            new.build_from_config(model.get_build_config())
            new.built = True  # As Keras does when it loads a model.
    except Exception as error:
        raise ValueError(
            f'{caller} could not copy model "{model.name}" of type {type(model).__name__} from its '
            f"get_config(): {error} Give the class a complete get_config, and decorate functions "
            "and classes of your own with keras.saving.register_keras_serializable."
        ) from error
    _copy_state(model, new, caller)
    return new, {id(v): w for v, w in zip(model.weights, new.weights, strict=True)}


def _copy_state(source: Any, target: Any, caller: str) -> None:
    """Copies weights, random state, vocabularies and trainable flags, but for dropout rates."""
    pairs = list(zip(sublayers(source), sublayers(target), strict=False))
    shapes = [[tuple(v.shape) for v in layer.weights] for layer in (source, target)]
    if shapes[0] != shapes[1] or not len(pairs) == len(sublayers(source)) == len(sublayers(target)):
        raise ValueError(
            f'{caller} could not copy "{source.name}" of type {type(source).__name__}: made again '
            f"from its get_config() it has weights of shapes {shapes[1]}, but the original has "
            f"{shapes[0]}. Give the class a complete get_config."
        )
    for a, b in pairs:
        b.trainable = a.trainable
        copy_assets(a, b)
    for a, b in pairs:
        old, new = _random_state(a), _random_state(b)
        # At rate 0 Keras's dropout has no generator.
        for v, w in zip(old, new, strict=len(old) == len(new)):
            w.assign(copied(v))
    for v, w in zip(source.weights, target.weights, strict=True):
        w.assign(copied(v))
        w.trainable = v.trainable


def _random_state(layer: Any) -> list[Any]:
    """Returns the state of the layer's own random generators."""
    inner = {id(v) for part in sublayers(layer)[1:] for v in part.variables}
    known = inner | {id(v) for v in layer.weights}
    if isinstance(layer, MutableRateLayer):
        known.add(id(layer.rate_variable))
    return [v for v in layer.variables if id(v) not in known]


def _compile_alike(
    model: Any, new: Any, to_keras: bool, twins: dict[int, Any], notices: list[str]
) -> None:
    if type(model).compile is not keras.Model.compile:
        raise NoCounterpartError(f"{type(model).__name__} has a compile() of its own; call it")
    optimizer = model.optimizer
    if optimizer is not None:
        optimizer = converted(optimizer, to_keras, twins, notices.append)
    arguments = {
        name: _own_metrics(value) if "metrics" in name else value
        for name, value in compile_arguments(model).items()
    }
    # Under mixed_float16 the optimizer is wrapped already, if it is to be.
    new.compile(**arguments | {"optimizer": optimizer, "auto_scale_loss": False})


def _own_metrics(value: Any) -> Any:
    """Returns metrics with a state of their own."""
    if isinstance(value, list | tuple):
        return type(value)(map(_own_metrics, value))
    if isinstance(value, dict):
        return {key: _own_metrics(one) for key, one in value.items()}
    return type(value).from_config(value.get_config()) if isinstance(value, keras.Metric) else value
