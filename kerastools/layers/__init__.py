"""Layers whose hyperparameters are live, mirroring `keras.layers`."""

from kerastools.layers._dropout import Dropout

__all__ = ["Dropout"]
