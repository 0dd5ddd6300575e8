"""Search of the reuse depth, and cuts of a model."""
