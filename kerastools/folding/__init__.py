"""folding."""

__all__: list[str] = []
