"""What layers do to z = a⊗x + b: pure NumPy in float64, no graph."""

from kerastools.folding._algebra.affine import AFFINE_LAYERS, Affine, CannotFold, affine_of
from kerastools.folding._algebra.linear import LinearWeights
from kerastools.folding._algebra.passages import passage

__all__ = ["AFFINE_LAYERS", "Affine", "CannotFold", "LinearWeights", "affine_of", "passage"]
