"""An optimizer of Keras for one of this package, or the other way round, with all of its state."""

import inspect
import warnings
from collections.abc import Callable
from math import isinf
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools import optimizers
from kerastools._core.keras_private.optimizer_hooks import (
    decays,
    known_variables,
    learning_rate_source,
    moving_averages,
    own_variables,
)
from kerastools._core.keras_private.optimizer_state import (
    common_state,
    copied,
    counts_batches,
    momentum_product,
)
from kerastools.optimizers._base.hyperparameter import takes_step
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer
from kerastools.optimizers._base.rate_factors import joined_at, set_joined
from kerastools.optimizers._base.slots import is_half
from kerastools.optimizers._base.wrapped_optimizer import WrappedOptimizer

# Takes the text of a notice.
Say = Callable[[str], None]

TWINS = {
    optimizers.SGD: keras.optimizers.SGD,
    optimizers.Adagrad: keras.optimizers.Adagrad,
    optimizers.RMSprop: keras.optimizers.RMSprop,
    optimizers.Adam: keras.optimizers.Adam,
    optimizers.AdamW: keras.optimizers.AdamW,
    optimizers.Nadam: keras.optimizers.Nadam,
    optimizers.Adamax: keras.optimizers.Adamax,
}
_OURS = {theirs: ours for ours, theirs in TWINS.items()}
_CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")


class NoCounterpartError(Exception):
    """Says why no optimizer of the other side takes the same steps."""


def converted(optimizer: Any, to_keras: bool, twins: dict[int, Any], say: Say) -> Any:
    """Returns the other side's optimizer; it takes the steps that `optimizer` would take next.

    Args:
        optimizer: Built or not; it is left alone.
        to_keras: Whether Keras's is wanted. Otherwise what has no counterpart here stays Keras's.
        twins: The variable of the new model for each variable of the old one, by id.
        say: Takes the text of a notice.

    Raises:
        NoCounterpartError: If Keras has none, or it is bound to variables that are not the model's.
    """
    new = _unbuilt(optimizer, to_keras, say)
    if optimizer.built:
        known = known_variables(optimizer)
        if any(id(v) not in twins for v in known):
            raise NoCounterpartError("it was built for variables that are not the model's")
        _spare_from_decay(optimizer, new, twins)
        new.build([twins[id(v)] for v in known])
        _carry(optimizer, new, twins)
    return new


def _unbuilt(optimizer: Any, to_keras: bool, say: Say) -> Any:
    """Returns the new optimizer, without state."""
    cls = type(optimizer)
    if cls is keras.optimizers.LossScaleOptimizer or (
        isinstance(optimizer, WrappedOptimizer) and not to_keras
    ):
        taken = inspect.signature(cls).parameters
        config = {k: v for k, v in _config_of(optimizer).items() if k in taken}
        inner = _unbuilt(optimizer.inner_optimizer, to_keras, say)
        return cls(**config | {"inner_optimizer": inner})
    if to_keras and cls in TWINS:
        return TWINS[cls](**_keras_config(optimizer, say))
    if to_keras and isinstance(optimizer, MutableOptimizer | WrappedOptimizer):
        raise NoCounterpartError(f"Keras has no {cls.__name__} that takes the same steps")
    if not to_keras and cls in _OURS:
        if counts_batches(optimizer):
            say(
                f"with gradient_accumulation_steps, Keras's {cls.__name__} counts batches in its "
                "learning-rate schedule and moving average; kerastools's counts updates."
            )
        if optimizer.use_ema:
            say(
                "the moving average stays in the optimizer until kerastools.callbacks."
                "EvaluationWeights puts it into the model; Keras does so after every fit"
            )
        config = _with_source(optimizer, _config_of(optimizer))
        try:
            return _OURS[cls](**config)
        except ValueError as error:
            say(f"keeps Keras's {cls.__name__}: {error}")
    elif not to_keras and not isinstance(optimizer, MutableOptimizer):
        say(f"keeps {cls.__name__}: kerastools has no optimizer that takes the same steps.")
    try:
        return cls.from_config(_config_of(optimizer))
    except Exception as error:
        raise NoCounterpartError(
            f"{cls.__name__} cannot be made from its get_config(): {error}"
        ) from error


def _config_of(optimizer: Any) -> dict[str, Any]:
    with warnings.catch_warnings():  # Functions are handed on as they are.
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        return optimizer.get_config()


def _with_source(optimizer: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Returns `config` with the very schedule or function of the learning rate."""
    source = learning_rate_source(optimizer)
    return config if isinstance(source, keras.Variable) else {**config, "learning_rate": source}


def _keras_config(optimizer: Any, say: Say) -> dict[str, Any]:
    """Returns the arguments with which Keras's class takes the same steps."""
    name = TWINS[type(optimizer)].__name__
    config = _with_source(optimizer, _config_of(optimizer))
    taken = inspect.signature(TWINS[type(optimizer)]).parameters
    for option, parameter in inspect.signature(type(optimizer)).parameters.items():
        if option not in taken and config.get(option) and config[option] != parameter.default:
            if option != "skip_nonfinite":
                raise NoCounterpartError(f"Keras's {name} has no {option}={config[option]!r}")
            say(f"Keras's {name} does not skip non-finite gradients.")
    config = {k: v for k, v in config.items() if k in taken}
    source = config["learning_rate"]
    schedule = isinstance(source, keras.optimizers.schedules.LearningRateSchedule)
    functions = [k for k, v in config.items() if isinstance(v, dict)]
    if callable(source) and not schedule and takes_step(source):
        functions.append("learning_rate")
    if functions:
        raise NoCounterpartError(f"Keras's {name} takes no function of the step as {functions[0]}")
    clips = [c for c in _CLIPS if config[c] is not None and not isinf(config[c])]
    if len(clips) > 1:
        raise NoCounterpartError(f"Keras's {name} clips in one way, not by {' and '.join(clips)}")
    config |= {c: None for c in _CLIPS if c not in clips}
    if counts_batches(optimizer):
        raise NoCounterpartError(
            f"with gradient_accumulation_steps, Keras's {name} counts batches, not updates, in its "
            "learning-rate schedule and moving average"
        )
    if "momentum" in config:
        config["momentum"] = config["momentum"] or 0.0
    if config.get("nesterov") == "exact":
        config["nesterov"] = True
        say(
            'Keras\'s SGD(nesterov=True) takes the steps of nesterov="exact", but has '
            "no evaluation weights; it evaluates at the look-ahead."
        )
    if optimizer.use_ema:
        say(
            "Keras averages weights before their constraints act, and leaves the average in the "
            "model at the end of every fit."
        )
    if optimizer.at_evaluation:
        say(
            "the model holds its evaluation weights, and so does the new one. For the "
            "weights that are trained, call model.optimizer.to_training() before."
        )
    if optimizer.built:
        _check_state(optimizer)
    return config


def _check_state(optimizer: Any) -> None:
    """Raises `NoCounterpartError` where Keras's class would go on otherwise from this state."""
    if any(map(is_half, known_variables(optimizer))):
        raise NoCounterpartError(
            "Keras has no float32 master weights for variables of half precision"
        )
    if optimizer._fixed.rate_factors:
        raise NoCounterpartError("single variables have learning rates of their own now")
    steps = _numpy(_slots(optimizer, "step")) if "step" in optimizer._scalar_slots else np.zeros(0)
    if np.any(steps != int(_numpy(optimizer.iterations))):
        raise NoCounterpartError(
            "variables that joined late, or skipped a step, count their own steps"
        )


def _spare_from_decay(old: Any, new: Any, twins: dict[int, Any]) -> None:
    """Says which variables do not decay, which Keras takes before the optimizer is built."""
    for a, b in _parts(old, new):
        spared = [twins[id(v)] for v in known_variables(a) if not decays(a, v)]
        if spared:
            b.exclude_from_weight_decay(var_list=spared)


def _parts(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Returns both optimizers, and those that they wrap."""
    pairs = [(old, new)]
    while hasattr(old, "inner_optimizer"):
        old, new = old.inner_optimizer, new.inner_optimizer
        pairs.append((old, new))
    return pairs


def _carry(old: Any, new: Any, twins: dict[int, Any]) -> None:
    """Gives a built optimizer the state of another; the learning rate is in its arguments."""
    for a, b in _parts(old, new):
        if type(a) is type(b):
            for source, target in zip(own_variables(a), own_variables(b), strict=True):
                target.assign(copied(source))
            if joined := joined_at(a):
                set_joined(b, {id(twins[key]): steps for key, steps in joined.items()})
        elif isinstance(a, MutableOptimizer):
            _to_keras(a, b)
        else:
            _from_keras(a, b)


def _to_keras(ours: Any, theirs: Any) -> None:
    for source, target in common_state(ours, theirs):
        target.assign(copied(source))
    if getattr(ours, "nesterov", False) == "exact" and theirs.momentum:
        # The look-ahead is γ times the displacement.
        for source, target in zip(_slots(ours, "lookahead"), theirs.momentums, strict=True):
            target.assign(copied(source) / theirs.momentum)
    if (product := momentum_product(theirs)) is not None:
        product.assign(1 - float(_numpy(_slots(ours, "weight"))[0]))
    if ours.at_evaluation and ours.use_ema:
        for variable, average in zip(known_variables(theirs), moving_averages(theirs), strict=True):
            average.assign(copied(variable))


def _from_keras(theirs: Any, ours: Any) -> None:
    for target, source in common_state(ours, theirs):
        target.assign(copied(source))
    if "step" in ours._scalar_slots:
        steps = np.full(len(known_variables(theirs)), int(_numpy(theirs.iterations)))
        joined = joined_at(theirs)
        late = np.array([joined.get(id(v), 0) for v in known_variables(theirs)])
        _slots(ours, "step").assign(steps - late)
    if (product := momentum_product(theirs)) is not None:
        _slots(ours, "weight").assign(np.full(len(known_variables(theirs)), 1 - _numpy(product)))


def _slots(optimizer: Any, name: str) -> Any:
    return getattr(optimizer, f"_{name}_slots")


def _numpy(value: Any) -> Any:
    return np.array(ops.convert_to_numpy(value))
