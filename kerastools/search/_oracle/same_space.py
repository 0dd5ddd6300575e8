"""Whether two searches ask for the same hyperparameters."""

from typing import Any

import keras_tuner


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
