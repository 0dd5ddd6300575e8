"""Reports of a search: table, plots, TensorBoard."""
