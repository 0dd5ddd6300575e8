"""Features of a frozen trunk, computed once."""
