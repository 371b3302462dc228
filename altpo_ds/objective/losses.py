"""Losses as pure functions of response log-probabilities.

Log-probabilities are sums over response tokens, the end-of-turn token included. Names follow the preference
literature: an alternate is the chosen response of a pair, the original (forget) answer the rejected one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def preference_losses(
    policy_alternate: Tensor,
    policy_forget: Tensor,
    reference_alternate: Tensor,
    reference_forget: Tensor,
    beta: float,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """DPO's loss (arXiv 2305.18290, eq. 7) on P pairs, times `scale`; AltPO takes scale = 2 / beta.

    Arguments are log-probabilities (P,). Returns losses (P,), log ratios of the alternates (P,) and of the
    original answers (P,), the ratios detached.
    """
    alternate = policy_alternate - reference_alternate
    forget = policy_forget - reference_forget
    losses = -scale * F.logsigmoid(beta * (alternate - forget))
    return losses, alternate.detach(), forget.detach()


def altpo_loss(
    policy_alternate: Tensor,
    policy_forget: Tensor,
    reference_alternate: Tensor,
    reference_forget: Tensor,
    beta: float,
) -> Tensor:
    """AltPO (arXiv 2409.13474): -(2 / beta) * mean log sigmoid(beta * (alternate - forget log ratio)), a scalar.

    Its gradient is 2 / beta times DPO's: learning rates do not carry over from a DPO trainer.
    """
    pair = (policy_alternate, policy_forget, reference_alternate, reference_forget)
    return preference_losses(*pair, beta, 2 / beta)[0].mean()


def kl_divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """KL(reference || policy) per row of log-probabilities (M, V): (M,)."""
    return F.kl_div(policy, reference, reduction="none", log_target=True).sum(-1)


def count_correct(log_ratio_alternate: Tensor, log_ratio_forget: Tensor) -> Tensor:
    """Number of pairs whose alternate gained more than its original answer."""
    return torch.count_nonzero(log_ratio_alternate > log_ratio_forget)
