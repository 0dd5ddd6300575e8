"""Targets from plain Keras, and learning rates, tuned alike for every optimizer.

The trials run in a compiled loop, for plain Keras too: the trajectory is that of its `fit` to 1e-5
(tests/acceleration), and what is counted here is steps, not time.
"""

import itertools
import math
from dataclasses import asdict, dataclass, replace

import keras
import numpy as np
from contestants import HAND, Contestant
from race import Target
from workloads import Workload

import kerastools as kt

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (1001, 1002)  # No published seed is among them.
REFERENCE = Contestant("Keras, AdamW, He", HAND, "AdamW")


@dataclass(frozen=True)
class Trial:
    """One rate of one contestant with one seed; `steps` is `None` where the target was missed."""

    contestant: str
    rate: float
    seed: int
    steps: int | None
    scores: list[float]

    def to_dict(self) -> dict:
        return asdict(self)


class Bench:
    """Trains a contestant with many rates and seeds, compiled once."""

    def __init__(self, contestant: Contestant, workload: Workload, target: float) -> None:
        keras.utils.clear_session()
        self.contestant, self.workload, self.target = contestant, workload, target
        self.model = replace(contestant, rate=GRID[0], accelerate=True).model(workload, 0)
        self.model.optimizer.build(self.model.trainable_variables)
        self.slots = [np.array(v) for v in self.model.optimizer.variables]

    def trial(self, rate: float, seed: int) -> Trial:
        """Trains from the start."""
        workload, model = self.workload, self.model
        keras.utils.set_random_seed(seed)
        begun = workload.build(self.contestant.recipe)
        if self.contestant.initialize:
            kt.calibration.initialize(begun, "by_activation", seed=seed)
        workload.start(begun, seed)
        model.set_weights(begun.get_weights())
        for variable, value in zip(model.optimizer.variables, self.slots, strict=True):
            variable.assign(value)
        model.optimizer.learning_rate = rate
        data, watch = workload.data(), Target(workload, self.target)
        model.fit(
            *data.train,
            batch_size=workload.batch,
            epochs=workload.epochs,
            validation_data=data.validation,
            validation_batch_size=256,
            callbacks=[
                *self.contestant.callbacks(),
                watch,
                keras.callbacks.TerminateOnNaN(),
            ],
            verbose=0,
        )
        steps = len(watch.scores) * (len(data.train[0]) // workload.batch)
        hit = watch.reached
        return Trial(self.contestant.name, rate, seed, steps if hit else None, watch.scores)


def held(scores: list[float], workload: Workload) -> float:
    """Returns the best score that two validations running reached."""
    worse = min if workload.score == "val_accuracy" else max
    better = max if workload.score == "val_accuracy" else min
    pairs = [worse(pair) for pair in itertools.pairwise(scores)]
    none = -math.inf if better is max else math.inf
    return better([p for p in pairs if math.isfinite(p)], default=none)


def freeze(workload: Workload) -> float:
    """Returns the target: what AdamW with He holds in half the cap, the better of two rates.

    It is rounded to four digits so that who holds the same reaches it.
    """
    accuracy = workload.score == "val_accuracy"
    never = math.inf if accuracy else -math.inf
    bench = Bench(REFERENCE, replace(workload, epochs=workload.epochs // 2), never)
    scores = [held(bench.trial(rate, SEEDS[0]).scores, workload) for rate in (1e-3, 3e-3)]
    if accuracy:
        return math.floor(1e4 * max(scores)) / 1e4
    return math.ceil(1e4 * min(scores)) / 1e4


def tune(contestant: Contestant, workload: Workload, target: float) -> tuple[float, list[Trial]]:
    """Returns the best rate, and all trials.

    Every rate of the grid is tried with one seed, the best two with another seed; where the best
    is at an edge, the grid grows there, twice at most. Ranked are the mean steps, a miss counting
    twice the cap, then the mean score.
    """
    bench = Bench(contestant, workload, target)
    cap = workload.epochs * (len(workload.data().train[0]) // workload.batch)
    sign = -1 if workload.score == "val_accuracy" else 1

    def rank(rate: float) -> tuple[float, float]:
        mine = [t for t in trials if t.rate == rate]
        steps = [2 * cap if t.steps is None else t.steps for t in mine]
        return float(np.mean(steps)), sign * float(
            np.mean([held(t.scores, workload) for t in mine])
        )

    trials = [bench.trial(rate, SEEDS[0]) for rate in GRID]
    rates = list(GRID)
    for _ in range(2):
        best = min(rates, key=rank)
        if best not in (min(rates), max(rates)):
            break
        rates.append(best * 3 if best == max(rates) else best / 3)
        trials.append(bench.trial(rates[-1], SEEDS[0]))
    finalists = sorted(rates, key=rank)[:2]
    trials += [bench.trial(rate, seed) for rate in finalists for seed in SEEDS[1:]]
    return min(finalists, key=rank), trials
