"""A micro-batch's share of the global batch's loss, and the sums that its diagnostics are made of."""

from dataclasses import dataclass

import torch
from torch import Tensor

from altpo_ds.config.schema import ObjectiveConfig
from altpo_ds.objective.losses import count_correct, kl_divergence, preference_losses


@dataclass(frozen=True)
class Totals:
    """Denominators of the whole global batch: pairs and retain response tokens, over ranks and accumulation steps."""

    pairs: float
    retain_tokens: float


@dataclass(frozen=True)
class Scores:
    """What the objective needs of one micro-batch with P pairs, Q retain responses, M retain tokens.

    Log-probabilities are sums over response tokens.
    """

    policy_alternate: Tensor  # (P,)
    policy_forget: Tensor  # (P,)
    policy_retain: Tensor  # (Q,)
    reference_alternate: Tensor  # (P,)
    reference_forget: Tensor  # (P,)
    policy_retain_distribution: Tensor | None = None  # (M, V) log-probabilities, for the KL term
    reference_retain_distribution: Tensor | None = None  # (M, V)


SUMS = (
    "loss_forget",
    "loss_retain",
    "preference_accuracy",
    "preference_margin",
    "log_ratio_alternate",
    "log_ratio_forget",
)


def objective(config: ObjectiveConfig, scores: Scores, totals: Totals) -> tuple[Tensor, Tensor]:
    """Loss share and (6,) sums named by SUMS, each already divided by its total: added up over the micro-batches
    of all ranks they give the loss and the means of the global batch, however it was split.
    """
    pairs = (scores.policy_alternate, scores.policy_forget, scores.reference_alternate, scores.reference_forget)
    losses, alternate, forget = preference_losses(*pairs, config.beta, config.scale or 2 / config.beta)
    loss_forget = losses.sum() / max(totals.pairs, 1)
    if scores.policy_retain_distribution is not None and scores.reference_retain_distribution is not None:
        retain = kl_divergence(scores.policy_retain_distribution, scores.reference_retain_distribution).sum()
    else:
        retain = -scores.policy_retain.sum()
    loss_retain = retain / max(totals.retain_tokens, 1)
    retain_weight = 0.0 if config.retain_loss == "none" else config.retain_weight
    forget_weight = 0.0 if config.name == "sft" else config.forget_weight
    loss = forget_weight * loss_forget + retain_weight * loss_retain
    margin = config.beta * (alternate - forget)
    diagnostics = (count_correct(alternate, forget), margin.sum(), alternate.sum(), forget.sum())
    parts = [loss_forget.detach(), loss_retain.detach(), *(part / max(totals.pairs, 1) for part in diagnostics)]
    return loss, torch.stack([part.double() for part in parts])
