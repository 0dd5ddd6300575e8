"""Optuna as an oracle of keras-tuner."""
