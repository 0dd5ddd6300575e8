"""Everything that uses Optuna: oracle, shared study, search spaces, importance."""
