"""Layers whose hyperparameters are live, mirroring `keras.layers`."""

from kerastools._core.graph.kinds import kind
from kerastools.layers._alpha_dropout import AlphaDropout
from kerastools.layers._dropout import Dropout
from kerastools.layers._spatial_dropout import SpatialDropout

__all__ = ["AlphaDropout", "Dropout", "SpatialDropout", "kind"]
