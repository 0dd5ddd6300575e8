"""Checks of a search before its first trial."""

from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools._core.keras_private.training import symbolic_build
from kerastools._core.notices import notify
from kerastools.search._oracle.space import difference as difference_of_spaces
from kerastools.search._reuse.description import describe, difference


def require_compiled_model(model: Any, caller: str = "PopulationTuner") -> None:
    """Raises unless `model`, returned by a builder, is a compiled Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{caller} needs a builder that returns a compiled keras.Model. It returned "
            f"{model!r} of type {type(model).__name__}. Does build(hp) end in `return model`?"
        )
    if not getattr(model, "compiled", False):
        raise ValueError(
            f'{caller} needs a compiled model. The builder returned model "{model.name}" '
            "before compile(). Call model.compile(optimizer, loss, metrics=[...]) in build(hp)."
        )


def require_objective(tuner: Any, model: Any, fit_arguments: dict[str, Any]) -> None:
    """Raises if training `model` with these arguments cannot report the objective."""
    objective = tuner.oracle.objective
    if type(tuner.hypermodel).fit is not keras_tuner.HyperModel.fit:
        return
    every = fit_arguments.get("validation_freq")
    if every not in (None, 1) and any(name.startswith("val_") for name in _wanted(objective)):
        raise ValueError(
            f"PopulationTuner needs {objective.name!r} of every epoch to find the best one. "
            f"Received validation_freq={every!r}. Remove it."
        )
    if not type(model).__module__.startswith("keras."):
        return  # A custom train_step may report anything.
    if objective.name == "default_objective":
        raise ValueError(
            "PopulationTuner needs an objective, such as objective='val_loss', because the "
            "hypermodel's fit returns a History. Received objective=None."
        )
    logged = logged_names(model, fit_arguments)
    missing = [name for name in _wanted(objective) if name not in (logged or [name])]
    if logged is None or not missing or _has_own_callbacks(fit_arguments):
        return
    advice = "Choose one of these, or add it to the metrics in compile()."
    if any(name.startswith("val_") for name in missing) and not _validates(fit_arguments):
        advice = "Pass validation_data=(x, y) or validation_split=0.2 to search()."
    raise ValueError(
        f"PopulationTuner needs an objective that training reports. Received objective "
        f"{', '.join(map(repr, missing))}; reported are {', '.join(logged)}. {advice}"
    )


def require_reported(objective: Any, history: Any) -> None:
    """Ends the search if `fit` did not report the objective."""
    reported = getattr(history, "history", {})
    missing = [name for name in _wanted(objective) if name not in reported]
    if reported and missing:
        raise keras_tuner.errors.FatalValueError(
            f"PopulationTuner needs an objective that training reports. Received objective "
            f"{', '.join(map(repr, missing))}; reported were {', '.join(reported)}."
        )


def logged_names(model: Any, fit_arguments: dict[str, Any]) -> list[str] | None:
    """Returns the names in the logs of `model.fit`, or `None` if they are not known.

    Losses and metrics of a model with several outputs are computed for the first row of the data.
    """
    if len(getattr(model, "outputs", None) or [None]) == 1:
        names = _compiled_names(model)
    elif (tried := _tried_names(model, fit_arguments)) is None:
        return None
    else:
        names = tried
    return names + ([f"val_{name}" for name in names] if _validates(fit_arguments) else [])


def _compiled_names(model: Any) -> list[str]:
    arguments = compile_arguments(model)
    names = ["loss"]
    for metric in keras.tree.flatten([arguments["metrics"], arguments["weighted_metrics"]]):
        if metric is not None:
            name = metric if isinstance(metric, str) else getattr(metric, "name", None)
            names.append(name or metric.__name__)
    return names


def _tried_names(model: Any, fit_arguments: dict[str, Any]) -> list[str] | None:
    data = [fit_arguments.get("x"), fit_arguments.get("y")]
    if not all(isinstance(array, np.ndarray) for array in keras.tree.flatten(data)):
        return None
    try:
        symbolic_build(model, keras.tree.map_structure(lambda array: array[:1], tuple(data)))
    except Exception:  # A loss may need more than one row.
        return None
    return list(model.get_metrics_result())


def notify_if_nothing_is_mutable(
    model: Any,
    build: Callable[[keras_tuner.HyperParameters], Any],
    space: keras_tuner.HyperParameters,
) -> None:
    """Warns if no hyperparameter of `space` is mutable; `model` was built with `space`.

    Raises:
        ValueError: If there is nothing to search.
    """
    if not space.space:
        raise ValueError(
            "PopulationTuner needs hyperparameters to search. The builder defined none. Use "
            'hp.Float("dropout", 0.1, 0.5), for example, in build(hp).'
        )
    first = describe(model)
    reasons = []
    for hyperparameter in space.space:
        value = _another_value(hyperparameter, space.values.get(hyperparameter.name))
        if value is None or not space.is_active(hyperparameter):
            continue
        other = _changed(space, hyperparameter, value)
        try:
            reason = difference(first, describe(build(other)))
        except Exception as error:  # A trial with this value fails; the search goes on.
            reason = f"the builder raises {error!r}"
        if reason is None:
            return
        reasons.append(f"{hyperparameter.name} ({reason})")
    notify(
        "PopulationTuner compiles a model for every trial, because no hyperparameter is mutable. "
        f"Each of these changes the model: {'; '.join(reasons)}. Use kerastools.layers.Dropout and "
        "kerastools.optimizers, whose hyperparameters are mutable.",
        stacklevel=5,
    )


def require_same_space(build: Callable[..., Any], oracle: Any, directory: str) -> None:
    """Raises if the builder defines other hyperparameters than the search in `directory`."""
    asked = keras_tuner.HyperParameters()
    build(asked)
    if (unlike := difference_of_spaces(oracle.get_space(), asked)) is not None:
        raise ValueError(
            f"PopulationTuner found another search in {directory!r}: {unlike}. Choose another "
            "directory or project_name, or pass overwrite=True to delete that one."
        )


def _changed(space: keras_tuner.HyperParameters, changed: Any, value: Any) -> Any:
    """Returns `space` with another value of `changed`, and values of all that is then active."""
    # keras-tuner's own ensure_active_values drops a name that is active in one scope of two.
    other = space.copy()
    other.values = {}
    for hyperparameter in space.space:
        if hyperparameter is changed:
            other.values[hyperparameter.name] = value
        elif other.is_active(hyperparameter):
            kept = space.values if space.is_active(hyperparameter) else {}
            other.values[hyperparameter.name] = kept.get(
                hyperparameter.name, hyperparameter.default
            )
    return other


def _another_value(hyperparameter: Any, value: Any) -> Any:
    draws = (hyperparameter.random_sample(seed) for seed in range(1, 20))
    return next((draw for draw in draws if draw != value), None)


def _validates(fit_arguments: dict[str, Any]) -> bool:
    return fit_arguments.get("validation_data") is not None or bool(
        fit_arguments.get("validation_split")
    )


def _has_own_callbacks(fit_arguments: dict[str, Any]) -> bool:
    return any(
        not type(callback).__module__.startswith("keras.")
        for callback in fit_arguments.get("callbacks") or ()
    )


def _wanted(objective: Any) -> list[str]:
    return list(getattr(objective, "name_to_direction", [objective.name]))
