"""Rules: steps of the given optimizer that are too large or too small for the weights."""

from collections.abc import Callable

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._probe.trial_steps import Steps
from kerastools.diagnosis._rules.evidence import Evidence, Findings

# A loss that has grown by this factor in the first steps has not found its way by chance.
_GROWTH = 2.0
# One step should not replace a kernel, and should move it at all.
_LARGEST_UPDATE, _SMALLEST_UPDATE = 1.0, 1e-5
# Progress of the loss that counts as some, relative to where it began.
_PROGRESS = 0.01


def learning_rate(evidence: Evidence) -> Findings:
    """The loss grows in the first steps, and a smaller learning rate would lower it."""
    if evidence.steps is None:
        return
    steps = evidence.steps(1.0)
    first, last = steps.losses[0], steps.losses[-1]
    peak = max((x for x in steps.losses[1:] if np.isfinite(x)), default=np.inf)
    updates = dict(steps.updates)
    path, update = max(updates.items(), key=lambda item: item[1], default=("", 0.0))
    grows = np.isfinite(first) and (not steps.finite or peak > _GROWTH * abs(first) + 0.1)
    if not (np.isfinite(first) and (grows or update > _LARGEST_UPDATE)):
        return
    better = _best(evidence.steps, (1e-1, 1e-2, 1e-3, 1e-4))
    gain = first - better.losses[-1]
    if not gain > 0 or (np.isfinite(last) and first - last >= gain):
        return  # Whatever is wrong, it is not the learning rate.
    yield Finding(
        rule="learning rate too large",
        layer=path,
        value=steps.learning_rate,
        threshold=better.learning_rate,
        evidence=f"With a learning rate of {steps.learning_rate:.2g} the loss goes from "
        f"{first:.3g} to {last:.3g} in {len(steps.losses) - 1} steps, over {peak:.3g}; with "
        f"{better.learning_rate:.2g} it falls to {better.losses[-1]:.3g}. The first step "
        f"moves {path} by {update:.2g} of its norm.",
        fix=f"A learning rate of {better.learning_rate:.2g}; "
        "kerastools.callbacks.LearningRateFinder looks for the best.",
        source="Bengio 2012, Practical recommendations for gradient-based training, section 3.1.1.",
        remedy=better.learning_rate,
    )


def update_ratio(evidence: Evidence) -> Findings:
    """The optimizer hardly moves the weights, and with larger steps the loss would fall."""
    if evidence.steps is None or evidence.has_schedule:
        return
    steps = evidence.steps(1.0)
    ratios = [ratio for _, ratio in steps.updates]
    if not (ratios and steps.finite) or np.median(ratios) > _SMALLEST_UPDATE:
        return
    first = steps.losses[0]
    better = _best(evidence.steps, (1e2, 1e3, 1e4, 1e5, 1e6))
    progress, possible = ((first - s.losses[-1]) / abs(first) for s in (steps, better))
    if possible < _PROGRESS or progress > possible / 10:
        return
    path = min(steps.updates, key=lambda item: item[1])[0]
    yield Finding(
        rule="update too small",
        layer=path,
        value=float(np.median(ratios)),
        threshold=_SMALLEST_UPDATE,
        evidence=f"A step moves the kernels by {np.median(ratios):.2g} of their norm (the "
        f"median over layers): with a learning rate of {steps.learning_rate:.2g} the loss "
        f"stays at {steps.losses[-1]:.4g} for {len(steps.losses) - 1} steps, with "
        f"{better.learning_rate:.2g} it falls to {better.losses[-1]:.4g}.",
        fix=f"A learning rate of {better.learning_rate:.2g}; "
        "kerastools.callbacks.LearningRateFinder looks for the best.",
        source="Karpathy 2022, Building makemore part 3: about 1e-3 is usual.",
        remedy=better.learning_rate,
    )


def _best(run: Callable[[float], Steps], factors: tuple[float, ...]) -> Steps:
    """Returns the steps that end at the lowest loss, the smallest learning rate among equals."""
    runs = [run(factor) for factor in factors]
    # Between the powers of ten too, on both sides of the best.
    middle = factors[runs.index(_lowest(runs))]
    runs += [run(middle * 3), run(middle / 3)]
    return _lowest(runs)


def _lowest(runs: list[Steps]) -> Steps:
    sound = [r for r in runs if r.finite and max(r.losses) <= _GROWTH * abs(r.losses[0]) + 0.1]
    return min(sound or runs, key=lambda r: (round(_end(r), 3), r.learning_rate))


def _end(steps: Steps) -> float:
    last = steps.losses[-1]
    return last if np.isfinite(last) else np.inf
