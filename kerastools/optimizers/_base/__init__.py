"""The engine that the optimizers share."""
