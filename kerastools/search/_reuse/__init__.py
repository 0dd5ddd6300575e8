"""One compiled model for many trials: description, cache, conversion of models."""
