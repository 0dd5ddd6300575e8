"""Layers whose hyperparameters are live, mirroring `keras.layers`."""

from kerastools.layers._alpha_dropout import AlphaDropout
from kerastools.layers._dropout import Dropout
from kerastools.layers._spatial_dropout import SpatialDropout

__all__ = ["AlphaDropout", "Dropout", "SpatialDropout"]
