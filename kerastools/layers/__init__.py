"""Keras's dropout layers with a rate that is mutable while the model trains."""

from kerastools._core.graph.kinds import kind
from kerastools.layers._alpha_dropout import AlphaDropout
from kerastools.layers._dropout import Dropout
from kerastools.layers._spatial_dropout import (
    SpatialDropout,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)

__all__ = [
    "AlphaDropout",
    "Dropout",
    "SpatialDropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "kind",
]
