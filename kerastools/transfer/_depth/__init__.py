"""How many layers to reuse."""
