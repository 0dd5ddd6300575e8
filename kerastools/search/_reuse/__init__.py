"""One compiled model for many trials."""
