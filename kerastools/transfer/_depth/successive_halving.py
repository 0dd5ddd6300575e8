"""Successive halving over reuse depths."""

import math

import numpy as np
from rich.progress import Progress

from kerastools.transfer._depth.candidate import Candidate, EvalResult
from kerastools.transfer._depth.reuse_depth import DepthResult, paired, score_of

# Fraction of the epochs after which all but the best and training from scratch are dropped.
_FIRST_RUNG = 0.35


class DepthHalving:
    """Trains and compares candidates on the same folds, and counts the epochs.

    Candidates are compared by `score_of` validation accuracy and loss, averaged over `checkpoints`:
    after a single epoch, the few rows that decide are right by chance.
    """

    def __init__(
        self, y: np.ndarray, folds: list[np.ndarray], epochs: int, batch_size: int, seed: int
    ) -> None:
        self.y, self.folds, self.epochs = y, folds, epochs
        self.batch_size, self.seed = batch_size, seed
        self.first_rung = math.ceil(_FIRST_RUNG * epochs)
        self.num_epochs = 0

    def best(self, candidates: list[Candidate], epochs: int, verbose: bool = False) -> Candidate:
        """Trains candidates up to `epochs`; returns the first one with the best score.

        Args:
            candidates: The candidates to compare.
            epochs: `first_rung` or all epochs.
            verbose: Whether to show a progress bar.
        """
        with Progress(disable=not verbose, transient=True) as progress:
            task = progress.add_task(
                f"{len(candidates)} candidates, up to {epochs} epochs", total=len(candidates)
            )
            for candidate in candidates:
                self._train(candidate, epochs)
                progress.advance(task)
        return max(candidates, key=lambda candidate: _mean_score(candidate, epochs))

    def _train(self, candidate: Candidate, epochs: int) -> None:
        at = checkpoints(self.first_rung) | checkpoints(self.epochs)
        for repeat, held_out in enumerate(self.folds):
            done = candidate.epochs.get(repeat, 0)
            if done < epochs:
                train = np.setdiff1d(np.arange(len(self.y)), held_out)
                seed = self.seed * 1000 + repeat
                candidate.train(repeat, epochs, self.y, train, self.batch_size, seed, held_out, at)
                self.num_epochs += epochs - done


def checkpoints(epochs: int) -> set[int]:
    """Returns the epochs whose results are averaged to judge a candidate after `epochs`.

    At most five, in the last two fifths.
    """
    return {max(round(share * epochs), 1) for share in np.linspace(0.6, 1, 5)}


def results(candidates: list[Candidate]) -> tuple[DepthResult, ...]:
    """Returns the results of candidates: the longest trained first, then by score."""
    order = sorted(candidates, key=lambda w: (-w.epochs[0], -_mean_score(w, w.epochs[0])))
    return tuple(_result(candidate, order[0]) for candidate in order)


def _averages(candidate: Candidate, epochs: int) -> list[EvalResult]:
    """Returns the results of each repeat, averaged over the checkpoints."""
    some = [candidate.results[epoch] for epoch in sorted(checkpoints(epochs))]
    return [
        EvalResult(*np.mean([r[k] for r in some], 0).tolist()) for k in sorted(candidate.epochs)
    ]


def _scores(candidate: Candidate, epochs: int) -> list[float]:
    return [score_of(*result) for result in _averages(candidate, epochs)]


def _mean_score(candidate: Candidate, epochs: int) -> float:
    return float(np.mean(_scores(candidate, epochs)))


def _result(candidate: Candidate, best: Candidate) -> DepthResult:
    epochs = candidate.epochs[0]
    accuracies, losses = zip(*_averages(candidate, epochs), strict=True)
    difference = (
        None if candidate is best else paired(_scores(best, epochs), _scores(candidate, epochs))
    )
    return DepthResult(candidate.upto, candidate.frozen, epochs, accuracies, losses, difference)
