"""Where a search stands, one line for each trial that ends."""

import time
from typing import Any


class Progress:
    """Prints trials done and running, the best score so far and the time left.

    Trials of other processes that work on the same search count as well.
    """

    def __init__(self, oracle: Any) -> None:
        self.oracle = oracle
        self.started = time.perf_counter()
        self.before = len(oracle.end_order)

    def show(self, trial: Any, way: str) -> None:
        """Prints where the search stands after `trial`, which was trained the `way` it says."""
        done, total = len(self.oracle.end_order), self.oracle.max_trials
        running = sum(t.status == "RUNNING" for t in self.oracle.trials.values())
        best = [t.score for t in self.oracle.get_best_trials(1) if t.score is not None]
        here = time.perf_counter() - self.started
        left = here / max(1, done - self.before) * (total - done) if total else None
        score = "failed" if trial.status != "COMPLETED" else f"{trial.score:.4f}"
        print(
            f"trial {trial.trial_id}  {done}/{total or '?'}  {self.oracle.objective.name} {score}"
            f"  best {f'{best[0]:.4f}' if best else '-'}"
            + (f"  {running} running" if running else "")
            + ("" if left is None else f"  about {_duration(left)} left")
            + f"  ({way})",
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
