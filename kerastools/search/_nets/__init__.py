"""Ready-made hypermodels."""
