"""What a search found: table, plots, TensorBoard."""
