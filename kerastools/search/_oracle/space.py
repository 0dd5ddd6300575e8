"""keras-tuner's search spaces: compared, and sampled by Optuna."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import keras_tuner
from keras_tuner.engine import hyperparameters


def conditions(hyperparameter: Any) -> str:
    """Returns the conditional scope of a hyperparameter as text; with the name it is unique."""
    return " and ".join(f"{c.name} in {c.values}" for c in hyperparameter.conditions) or "always"


def difference(there: keras_tuner.HyperParameters, here: keras_tuner.HyperParameters) -> str | None:
    """Returns the first hyperparameter of `here` that differs from `there` as text, or `None`."""
    known = {(h.name, conditions(h)): _domain(h) for h in there.space}
    for hyperparameter in here.space:
        scope, now = conditions(hyperparameter), _domain(hyperparameter)
        before = known.get((hyperparameter.name, scope))
        if before != now:
            name = repr(hyperparameter.name) + ("" if scope == "always" else f" if {scope}")
            return f"there {name} is {'unknown' if before is None else before}, and here {now}"
    return None


def _domain(hyperparameter: Any) -> dict[str, Any]:
    config = hyperparameter.get_config()
    return {k: v for k, v in config.items() if k not in ("conditions", "default", "name")}


if TYPE_CHECKING:
    import optuna

_UNIT = 1 - 2.0**-53  # The largest probability below 1.


def suggest(trial: "optuna.Trial", space: keras_tuner.HyperParameters) -> dict[str, Any]:
    """Samples a value for each active hyperparameter of `space` by Optuna's `trial`.

    A hyperparameter in a conditional scope is sampled only if its condition holds.
    """
    names = Counter(h.name for h in space.space)
    values = keras_tuner.HyperParameters()
    for hyperparameter in space.space:  # A hyperparameter precedes those that depend on it.
        values.merge([hyperparameter])
        if values.is_active(hyperparameter):
            name = hyperparameter.name
            if names[name] > 1:  # One name may have other values in other scopes.
                name += f" if {conditions(hyperparameter)}"
            values.values[hyperparameter.name] = _value(trial, name, hyperparameter)
    return dict(values.values)


def _value(trial: "optuna.Trial", name: str, hyperparameter: Any) -> Any:
    if isinstance(hyperparameter, hyperparameters.Fixed):
        return hyperparameter.default
    if isinstance(hyperparameter, hyperparameters.Boolean):
        return trial.suggest_categorical(name, [False, True])
    if isinstance(hyperparameter, hyperparameters.Choice):
        choices = list(hyperparameter.values)
        if not hyperparameter.ordered:
            return trial.suggest_categorical(name, choices)
        return choices[trial.suggest_int(name, 0, len(choices) - 1)]
    low, high = hyperparameter.min_value, hyperparameter.max_value
    step, log = hyperparameter.step, hyperparameter.sampling == "log"
    is_int = isinstance(hyperparameter, hyperparameters.Int)
    if step is not None and not (is_int and step == 1):
        # By index, because Optuna needs `high` on the grid and has no logarithmic grids.
        number = sum(1 for _ in hyperparameter.values)
        index = trial.suggest_int(name, 0, number - 1)
        return hyperparameter.prob_to_value((index + 0.5) / number)
    if hyperparameter.sampling == "reverse_log":
        return hyperparameter.prob_to_value(trial.suggest_float(name, 0, _UNIT))
    if is_int:
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)
