"""What layers do to z = a⊗x + b: pure NumPy in float64, no graph."""

from kerastools.folding._algebra._affine import Affine, CannotFold, inference_affine
from kerastools.folding._algebra._linear import LinearWeights

__all__ = ["Affine", "CannotFold", "LinearWeights", "inference_affine"]
