"""Weights as a quantized model would hold them, in place: rounded to the nearest of few values and back."""

import torch
from torch import Tensor, nn

from altpo_ds.engine.scorer import SequenceScorer

GROUPS = {8: None, 4: 128}
"""Inputs that share a scale, by bits; None: all of an output channel."""


def quantize(scorer: SequenceScorer, bits: int) -> None:
    """Rounds the weights of all linear layers but the output head to `bits`; embeddings and head stay, as is usual.

    All ranks call it together. The model computes in its own dtype: this simulates what quantization does to the
    weights, not its speed or its activations.
    """
    import deepspeed

    rank = torch.distributed.get_rank()
    for module in scorer.model.modules():
        if isinstance(module, nn.Linear):
            with deepspeed.zero.GatheredParameters([module.weight], modifier_rank=0), torch.no_grad():
                if rank == 0 or not hasattr(module.weight, "ds_id"):
                    module.weight.copy_(rounded(module.weight, bits, GROUPS[bits]))


def rounded(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Symmetric round-to-nearest of a weight (out, in): one scale per output channel and `group` inputs (None: all)."""
    levels = 2 ** (bits - 1) - 1
    parts = []
    for part in weight.float().split(group or weight.shape[1], dim=1):
        scale = (part.abs().amax(1, keepdim=True) / levels).clamp(min=torch.finfo(torch.float32).tiny)
        parts.append((part / scale).round() * scale)
    return torch.cat(parts, 1).to(weight.dtype)
