"""Sweeps over runs, in W&B's file format: through W&B's server, or without one through Optuna."""
