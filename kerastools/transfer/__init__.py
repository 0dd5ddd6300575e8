"""Reusing what a model has learned for another task."""

from kerastools.transfer._reuse_layers import reuse_layers

__all__ = ["reuse_layers"]
