"""Ways to reuse a model against each other, by successive halving."""

import math

import numpy as np
from rich.progress import Progress

from kerastools.transfer._contestant import Contestant
from kerastools.transfer._reuse_depth import DepthResult, paired


class Contest:
    """Trains ways to reuse a model on the same rows, and counts the epochs."""

    def __init__(self, y: np.ndarray, folds: list[np.ndarray], batch_size: int, seed: int) -> None:
        self.y, self.folds = y, folds
        self.batch_size, self.seed = batch_size, seed
        self.num_epochs = 0

    def train(self, way: Contestant, epochs: int) -> list[float]:
        """Trains every repeat of `way` up to `epochs`; returns its validation accuracies."""
        if epochs not in way.accuracies:
            found = []
            for repeat, held_out in enumerate(self.folds):
                train = np.setdiff1d(np.arange(len(self.y)), held_out)
                seed = self.seed * 1000 + repeat
                self.num_epochs += way.train(repeat, epochs, self.y, train, self.batch_size, seed)
                found.append(way.accuracy(repeat, self.y, held_out))
            way.accuracies[epochs] = found
        return way.accuracies[epochs]

    def halve(self, ways: list[Contestant], epochs: int, verbose: bool) -> tuple[DepthResult, ...]:
        """Trains all `ways` for a while, the better half to the end; the first is always in it."""
        scratch, left = ways[0], list(ways)
        rungs = (math.ceil(epochs / 4), epochs)
        with Progress(disable=not verbose, transient=True) as progress:
            for budget in rungs:
                name = f"{len(left)} ways, up to {budget} epochs"
                task = progress.add_task(name, total=len(left))
                for way in left:
                    self.train(way, budget)
                    progress.advance(task)
                left.sort(key=lambda way: -float(np.mean(way.accuracies[budget])))
                if budget < epochs:
                    others = [way for way in left if way is not scratch]
                    # At least one, or scratch would have nothing to be compared with.
                    left = [scratch, *others[: max(math.ceil(len(left) / 2) - 1, 1)]]
        best = left[0]
        order = sorted(ways, key=_longest_and_best)
        return tuple(_result(way, best) for way in order)


def _longest_and_best(way: Contestant) -> tuple[int, float]:
    epochs = max(way.accuracies)
    return -epochs, -float(np.mean(way.accuracies[epochs]))


def _result(way: Contestant, best: Contestant) -> DepthResult:
    epochs = max(way.accuracies)
    accuracies = way.accuracies[epochs]
    difference = None if way is best else paired(best.accuracies[epochs], accuracies)
    return DepthResult(way.upto, way.frozen, epochs, tuple(accuracies), difference)
