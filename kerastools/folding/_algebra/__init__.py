"""What layers do to z = a⊗x + b: pure NumPy in float64, no graph."""
