"""Removing what a trained model no longer needs, without changing what it computes."""

from kerastools.folding._fold_batch_norm import fold_batch_norm
from kerastools.folding._recalibrate_batch_norm import recalibrate_batch_norm
from kerastools.folding._report import FoldOutcome, FoldReport

__all__ = ["FoldOutcome", "FoldReport", "fold_batch_norm", "recalibrate_batch_norm"]
