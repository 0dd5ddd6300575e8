"""Importance of hyperparameters, by PED-ANOVA."""

from collections.abc import Sequence
from typing import Any

from kerastools.search._report.scale import Scale

# Minimum number of trials, and of good trials, for an estimate.
_FEWEST, _GOOD = 10, 5


def importance(
    trials: Sequence[tuple[float, dict[str, Any]]], scales: Sequence[Scale], direction: str
) -> dict[str, float]:
    """Returns the importance of each hyperparameter by its displayed name, the largest first.

    PED-ANOVA: the Pearson divergence of the distribution of its values in the best trials from
    that in all trials. Empty below ten trials.

    Args:
        trials: Score and hyperparameter values of each finished trial.
        scales: The search space.
        direction: `"min"` or `"max"`.

    Reference: Watanabe, Bansal and Hutter, "PED-ANOVA: efficiently quantifying hyperparameter
    importance in arbitrary subspaces", IJCAI 2023.
    """
    if len(trials) < _FEWEST:
        return {}
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    from kerastools.search._oracle.shared_study import quiet

    unordered = [s for s in scales if any(isinstance(c, str | bool) for c in s.choices)]
    with quiet():
        study = optuna.create_study(direction=f"{direction}imize")
        for score, values in trials:
            own = [s for s in scales if s.asked in values]
            study.add_trial(
                optuna.create_trial(
                    value=score,
                    params={
                        s.name: values[s.asked]
                        if s in unordered
                        else min(max(s.position(values[s.asked]), 0.0), 1.0)
                        for s in own
                    },
                    distributions={
                        s.name: CategoricalDistribution(s.choices)
                        if s in unordered
                        else FloatDistribution(0.0, 1.0)
                        for s in own
                    },
                )
            )
        best = min(0.5, max(0.1, _GOOD / len(trials)))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
