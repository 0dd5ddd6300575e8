"""Ways to reuse a model against each other, by successive halving."""

import math

import numpy as np
from rich.progress import Progress

from kerastools.transfer._depth.candidate import Contestant, Mark
from kerastools.transfer._depth.reuse_depth import DepthResult, paired, score_of

# The share of the epochs after which all but the best and scratch are dropped.
_FIRST_RUNG = 0.35


class Contest:
    """Trains ways to reuse a model on the same rows, and counts the epochs.

    What counts is `score_of` accuracy and loss on validation rows, on average over the
    `checkpoints`: after a single epoch the few rows that decide are right by chance.
    """

    def __init__(
        self, y: np.ndarray, folds: list[np.ndarray], epochs: int, batch_size: int, seed: int
    ) -> None:
        self.y, self.folds, self.epochs = y, folds, epochs
        self.batch_size, self.seed = batch_size, seed
        self.first_rung = math.ceil(_FIRST_RUNG * epochs)
        self.num_epochs = 0

    def best(self, ways: list[Contestant], epochs: int, verbose: bool = False) -> Contestant:
        """Trains `ways` up to `epochs`; returns the one with the best score, the first of equals.

        Args:
            ways: What is compared.
            epochs: `first_rung` or all epochs.
            verbose: Whether to show a progress bar.
        """
        with Progress(disable=not verbose, transient=True) as progress:
            task = progress.add_task(f"{len(ways)} ways, up to {epochs} epochs", total=len(ways))
            for way in ways:
                self._train(way, epochs)
                progress.advance(task)
        return max(ways, key=lambda way: _mean_score(way, epochs))

    def _train(self, way: Contestant, epochs: int) -> None:
        at = checkpoints(self.first_rung) | checkpoints(self.epochs)
        for repeat, held_out in enumerate(self.folds):
            done = way.epochs.get(repeat, 0)
            if done < epochs:
                train = np.setdiff1d(np.arange(len(self.y)), held_out)
                seed = self.seed * 1000 + repeat
                way.train(repeat, epochs, self.y, train, self.batch_size, seed, held_out, at)
                self.num_epochs += epochs - done


def checkpoints(epochs: int) -> set[int]:
    """Returns the epochs whose marks say how a network is after `epochs`.

    Five in the last two fifths, or fewer if there are no five.
    """
    return {max(round(share * epochs), 1) for share in np.linspace(0.6, 1, 5)}


def results(ways: list[Contestant]) -> tuple[DepthResult, ...]:
    """Returns what is known of `ways`: those that were trained longest first, then by score."""
    order = sorted(ways, key=lambda w: (-w.epochs[0], -_mean_score(w, w.epochs[0])))
    return tuple(_result(way, order[0]) for way in order)


def _marks(way: Contestant, epochs: int) -> list[Mark]:
    """Returns the mean marks of each repeat over the checkpoints."""
    some = [way.marks[epoch] for epoch in sorted(checkpoints(epochs))]
    return [Mark(*np.mean([m[k] for m in some], 0).tolist()) for k in sorted(way.epochs)]


def _scores(way: Contestant, epochs: int) -> list[float]:
    return [score_of(*mark) for mark in _marks(way, epochs)]


def _mean_score(way: Contestant, epochs: int) -> float:
    return float(np.mean(_scores(way, epochs)))


def _result(way: Contestant, best: Contestant) -> DepthResult:
    epochs = way.epochs[0]
    accuracies, losses = zip(*_marks(way, epochs), strict=True)
    difference = None if way is best else paired(_scores(best, epochs), _scores(way, epochs))
    return DepthResult(way.upto, way.frozen, epochs, accuracies, losses, difference)
