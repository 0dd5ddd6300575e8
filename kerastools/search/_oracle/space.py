"""keras-tuner's search spaces: compared, and sampled by Optuna."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import keras_tuner
from keras_tuner.engine import hyperparameters


def conditions(hyperparameter: Any) -> str:
    """Returns where a hyperparameter is asked for; with its name it tells it from all others."""
    return " and ".join(f"{c.name} in {c.values}" for c in hyperparameter.conditions) or "always"


def difference(there: keras_tuner.HyperParameters, here: keras_tuner.HyperParameters) -> str | None:
    """Returns what `here` asks for and `there` does not, in words; `None` if there is nothing."""
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

_UNIT = 1 - 2.0**-53  # the largest probability below 1


def suggest(trial: "optuna.Trial", space: keras_tuner.HyperParameters) -> dict[str, Any]:
    """Returns a value for each hyperparameter of `space` that is active, as `trial` suggests.

    A hyperparameter in a conditional scope is asked for only where its condition holds.
    """
    names = Counter(h.name for h in space.space)
    values = keras_tuner.HyperParameters()
    for hyperparameter in space.space:  # Conditions stand behind what they depend on.
        values.merge([hyperparameter])
        if values.is_active(hyperparameter):
            name = hyperparameter.name
            if names[name] > 1:  # One name may stand for other values in other scopes.
                name += f" if {conditions(hyperparameter)}"
            values.values[hyperparameter.name] = _value(trial, name, hyperparameter)
    return dict(values.values)


def _value(trial: "optuna.Trial", name: str, hyperparameter: Any) -> Any:
    whole = isinstance(hyperparameter, hyperparameters.Int)
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
    if step is not None and not (whole and step == 1):
        # Counted, because Optuna wants `high` on the grid and knows no logarithmic one.
        number = sum(1 for _ in hyperparameter.values)
        place = trial.suggest_int(name, 0, number - 1)
        return hyperparameter.prob_to_value((place + 0.5) / number)
    if hyperparameter.sampling == "reverse_log":
        return hyperparameter.prob_to_value(trial.suggest_float(name, 0, _UNIT))
    if whole:
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)
