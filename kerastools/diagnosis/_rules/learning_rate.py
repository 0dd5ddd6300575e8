"""Rules: a learning rate that is not positive, too large, or too small for the weights."""

from collections.abc import Callable

import numpy as np

from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._probe.trial_steps import Steps
from kerastools.diagnosis._rules.evidence import Evidence

# A loss that has grown by this factor in the first steps has not found its way by chance.
_GROWTH = 2.0
# One step should not replace a kernel; one that moves it by more than the smallest is large enough.
_LARGEST_UPDATE, _SMALLEST_UPDATE = 1.0, 2e-4
# What the loss falls by in the first steps, relative to itself: so little that it hardly learns,
# and so much that it does.
_NO_GAIN, _GAIN = 0.005, 0.05
# So many times as much must ten times the rate gain: the loss falls in proportion to it.
_IN_PROPORTION = 3.0
# Batches that are taken in turn.
_CYCLE = 5


def learning_rate(evidence: Evidence) -> list[Finding]:
    """The rate is not positive; or the loss grows in the first steps, and less with a smaller."""
    if evidence.steps is None:
        return []
    steps = evidence.steps(1.0)
    if steps.learning_rate <= 0 and not evidence.has_schedule:
        return [_not_positive(steps, evidence.usual_rate)]
    first, last = steps.losses[0], steps.losses[-1]
    peak = max((x for x in steps.losses[1:] if np.isfinite(x)), default=np.inf)
    updates = dict(steps.updates)
    path, update = max(updates.items(), key=lambda item: item[1], default=("", 0.0))
    grows = np.isfinite(first) and (not steps.finite or peak > _GROWTH * abs(first) + 0.1)
    if not (np.isfinite(first) and (grows or update > _LARGEST_UPDATE)):
        return []
    better = _best(evidence.steps, (1e-1, 1e-2, 1e-3, 1e-4))
    if not better.losses[-1] < first:
        better = _best(evidence.steps, (1e-5, 1e-6, 1e-7, 1e-8, 1e-9))
    gain = first - better.losses[-1]
    if not gain > 0 or (np.isfinite(last) and first - last >= gain):
        return []  # Whatever is wrong, it is not the learning rate.
    return [
        Finding(
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
            source="Bengio 2012, Practical recommendations for gradient-based training, section "
            "3.1.1.",
            remedy=better.learning_rate,
        )
    ]


def _not_positive(steps: Steps, usual: float) -> Finding:
    rate = steps.learning_rate
    what = "does not move the weights" if rate == 0 else "raises the loss"
    return Finding(
        rule="learning rate not positive",
        layer=min(steps.updates, default=("", 0.0))[0],
        value=rate,
        threshold=0.0,
        evidence=f"The learning rate is {rate:.3g}, which {what}.",
        fix=f"A learning rate of {usual:.2g}; "
        "kerastools.callbacks.LearningRateFinder looks for the best.",
        source="Gradient descent steps against the gradient.",
        remedy=usual,
    )


def update_ratio(evidence: Evidence) -> list[Finding]:
    """The loss hardly falls, and falls in proportion to rates that are a hundred times larger."""
    if evidence.steps is None or evidence.has_schedule:
        return []
    run = evidence.steps
    steps = run(1.0)
    ratios = [ratio for _, ratio in steps.updates if ratio > 0]
    if steps.learning_rate <= 0 or not (ratios and steps.finite):
        return []
    if np.median(ratios) > _SMALLEST_UPDATE:
        return []
    # Against no steps at all, so that batches and dropout are the same.
    still = run(0.0)
    gains = [_gain(steps, still)]
    if not gains[0] < _NO_GAIN:
        return []
    factor = 1.0
    while gains[-1] < _GAIN and factor < 1e6:
        factor *= 10
        gains.append(_gain(run(factor), still))
        if gains[-1] < _IN_PROPORTION * max(gains[-2], 1e-6) and gains[-1] > 1e-4:
            return []
    if gains[-1] < _GAIN or factor < 100:
        return []
    better = _best(run, (factor, 10 * factor))
    path = min((item for item in steps.updates if item[1] > 0), key=lambda item: item[1])[0]
    return [
        Finding(
            rule="update too small",
            layer=path,
            value=steps.learning_rate,
            threshold=better.learning_rate,
            evidence=f"A step moves the kernels by {np.median(ratios):.2g} of their norm (the "
            f"median over layers): with a learning rate of {steps.learning_rate:.2g} the loss "
            f"falls by {gains[0]:.2%} in {len(steps.losses) - 1} steps, with {factor:g} times as "
            f"much by {gains[-1]:.2%}, and with {better.learning_rate:.2g} to "
            f"{better.losses[-1]:.4g}.",
            fix=f"A learning rate of {better.learning_rate:.2g}; "
            "kerastools.callbacks.LearningRateFinder looks for the best.",
            source="Karpathy 2022, Building makemore part 3: about 1e-3 is usual.",
            remedy=better.learning_rate,
        )
    ]


def _gain(steps: Steps, still: Steps) -> float:
    """Returns by how much the last losses are lower than without steps, relative to those."""
    if not steps.finite:
        return -np.inf
    a, b = (float(np.mean(s.losses[-_CYCLE:])) for s in (steps, still))
    return (b - a) / max(abs(b), 1e-12)


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
