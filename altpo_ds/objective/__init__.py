"""Sequence log-probabilities and losses: pure functions of tensors, torch only."""

from altpo_ds.objective.losses import altpo_loss

__all__ = ["altpo_loss"]
