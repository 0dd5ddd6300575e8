"""What can be wrong with a search, found before its first trial."""

from collections.abc import Callable
from typing import Any

import keras
import keras_tuner

from kerastools._core._stacked_keras import compile_arguments
from kerastools.search._description import describe, difference
from kerastools.search._same_space import difference as difference_of_spaces


def require_compiled_model(model: Any, caller: str = "PopulationTuner") -> None:
    """Raises unless `model`, what a builder returned, is a compiled Keras model."""
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
    """Raises if training `model` with these arguments will surely not report the objective."""
    objective = tuner.oracle.objective
    stock_fit = type(tuner.hypermodel).fit is keras_tuner.HyperModel.fit
    if not stock_fit or not type(model).__module__.startswith("keras."):
        return  # A fit or train step of the user's own may report anything.
    if objective.name == "default_objective":
        raise ValueError(
            "PopulationTuner needs an objective, such as objective='val_loss', because the "
            "hypermodel's fit returns a History. Received objective=None."
        )
    logged = logged_names(model, fit_arguments)
    wanted = getattr(objective, "name_to_direction", {objective.name: None})
    missing = [name for name in wanted if name not in logged]
    if not missing or _may_log_more(model, fit_arguments):
        return
    advice = "Choose one of these, or add it to the metrics in compile()."
    if any(name.startswith("val_") for name in missing) and not _validates(fit_arguments):
        advice = "Pass validation_data=(x, y) or validation_split=0.2 to search()."
    raise ValueError(
        f"PopulationTuner needs an objective that training reports. Received objective "
        f"{', '.join(map(repr, missing))}; reported are {', '.join(logged)}. {advice}"
    )


def logged_names(model: Any, fit_arguments: dict[str, Any]) -> list[str]:
    """Returns the names under which `model.fit` reports, for a model with one output."""
    arguments = compile_arguments(model)
    names = ["loss"]
    for metric in keras.tree.flatten([arguments["metrics"], arguments["weighted_metrics"]]):
        if metric is not None:
            name = metric if isinstance(metric, str) else getattr(metric, "name", None)
            names.append(name or metric.__name__)
    return names + ([f"val_{name}" for name in names] if _validates(fit_arguments) else [])


def require_live(
    model: Any,
    build: Callable[[keras_tuner.HyperParameters], Any],
    space: keras_tuner.HyperParameters,
) -> None:
    """Raises if no hyperparameter of `space` changes numbers only; `model` is built with it."""
    if not space.space:
        raise ValueError(
            "PopulationTuner needs hyperparameters to search. The builder asked for none: use "
            'hp.Float("dropout", 0.1, 0.5) and the like in build(hp).'
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
        except Exception as error:  # A trial with this value will fail; the search can go on.
            reason = f"the builder raises {error!r}"
        if reason is None:
            return
        reasons.append(f"{hyperparameter.name} ({reason})")
    raise ValueError(
        "PopulationTuner needs at least one hyperparameter that changes numbers only, so that one "
        f"compiled model serves many trials. Each of these changes the model: {'; '.join(reasons)}."
        " Use kerastools.layers.Dropout and kerastools.optimizers, whose numbers are live, or "
        "search with keras_tuner.RandomSearch."
    )


def require_same_space(build: Callable[..., Any], oracle: Any, directory: str) -> None:
    """Raises if the builder asks for other hyperparameters than the search in `directory` did."""
    asked = keras_tuner.HyperParameters()
    build(asked)
    if (unlike := difference_of_spaces(oracle.get_space(), asked)) is not None:
        raise ValueError(
            f"PopulationTuner found another search in {directory!r}: {unlike}. Give this search a "
            "directory or project_name of its own, or pass overwrite=True to delete that one."
        )


def _changed(space: keras_tuner.HyperParameters, changed: Any, value: Any) -> Any:
    """Returns `space` where `changed` has another value, and what is active then has one."""
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


def _may_log_more(model: Any, fit_arguments: dict[str, Any]) -> bool:
    own_callbacks = [
        callback
        for callback in fit_arguments.get("callbacks") or ()
        if not type(callback).__module__.startswith("keras.")
    ]
    return bool(own_callbacks) or len(model.outputs or [None]) != 1
