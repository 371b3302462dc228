"""Attention over packed prefix trees, tree by tree, as a function that transformers' models can be told to use."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from altpo_ds.data.trees import TreeSpan, visible

NAME = "altpo_tree"


class TreeLayout:
    """Spans of the packed row with their masks, built once a forward pass and shared by all layers."""

    def __init__(self, spans: tuple[TreeSpan, ...], device: torch.device) -> None:
        self.spans = spans
        self._device = device
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}

    def mask(self, number: int, sliding_window: int | None, dtype: torch.dtype) -> Tensor | None:
        """(L, L) mask of a tree, 0 or -inf, to add to the scores; None where plain causal attention is the same."""
        span = self.spans[number]
        if sliding_window is not None and sliding_window >= span.length:
            sliding_window = None
        key = (number, sliding_window)
        if key not in self._masks:
            plain = sliding_window is None and sum(1 for branch in span.branches if branch) <= 1
            self._masks[key] = None if plain else self._additive(visible(span, sliding_window, self._device), dtype)
        return self._masks[key]

    def _additive(self, seen: Tensor, dtype: torch.dtype) -> Tensor:
        """Every layer would turn a bool mask into this one, forward and backward."""
        return torch.zeros(seen.shape, dtype=dtype, device=self._device).masked_fill_(~seen, float("-inf"))


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: TreeLayout,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query (1, H, T, d), key and value (1, H / groups, T, d) -> (1, T, H, d)."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    outputs = []
    # Split, not sliced: the gradient of each slice would be a tensor of the whole row.
    parts = (tensor.split([span.length for span in trees.spans], dim=2) for tensor in (query, key, value))
    for number, (q, k, v) in enumerate(zip(*parts, strict=True)):
        mask = trees.mask(number, sliding_window, query.dtype)
        if softcap is None:
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
            )
        else:
            out = _softcapped(q, k, v, mask, scaling, softcap)
        outputs.append(out)
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _softcapped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float) -> Tensor:
    """Gemma 2's attention, which no fused kernel of torch computes."""
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * scaling / softcap)
    if mask is None:
        mask = torch.full(scores.shape[-2:], float("-inf"), dtype=scores.dtype, device=scores.device).triu(1)
    scores = scores + mask
    return torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(q.dtype) @ v


# No mask function is registered under this name, so that transformers builds no (T, T) mask for it.
AttentionInterface.register(NAME, tree_attention)
