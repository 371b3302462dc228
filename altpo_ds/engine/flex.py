"""Attention over packed prefix trees in one fused kernel: FlexAttention with a block mask, for GPUs."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from altpo_ds.config.errors import UserError
from altpo_ds.data.trees import PackedTrees, TreeSpan

NAME = "altpo_flex"
BLOCK = 128  # tokens of a mask block
SHAPES = 64  # kernels that may be compiled: eight row lengths an octave, each with a backward pass


def bucket(tokens: int) -> int:
    """The row length that `tokens` are padded to: at most an eighth longer (and a block), eight lengths an octave."""
    step = max(BLOCK, 2 ** (max(tokens, 1).bit_length() - 1) // 8)
    return -(-tokens // step) * step


class FlexLayout:
    """Block masks of a packed row of `bucket(T)` tokens, built once a forward pass and shared by all layers."""

    def __init__(self, packed: PackedTrees) -> None:
        device = packed.input_ids.device
        self.length = bucket(packed.input_ids.shape[1])
        self.input_ids, self.position = (self._padded(row) for row in (packed.input_ids, packed.position_ids))
        tree, branch = _owners(packed.spans, self.length)
        self.tree, self.branch = tree.to(device), branch.to(device)
        self._masks: dict[int | None, BlockMask] = {}

    def _padded(self, row: Tensor) -> Tensor:
        return torch.nn.functional.pad(row, (0, self.length - row.shape[1]))

    def mask(self, sliding_window: int | None) -> BlockMask:
        """Which tokens attend to which: as data.trees.visible, over the whole row."""
        if sliding_window not in self._masks:
            tree, branch, position = self.tree, self.branch, self.position[0]

            def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                same = (branch[query] == branch[key]) | (branch[key] == 0)
                seen = (tree[query] == tree[key]) & same & (query >= key)
                return seen if sliding_window is None else seen & (position[query] - position[key] < sliding_window)

            # compiled, it never holds the (T, T) mask
            self._masks[sliding_window] = create_block_mask(
                visible, None, None, self.length, self.length, device=tree.device, _compile=tree.is_cuda
            )
        return self._masks[sliding_window]


def _owners(spans: tuple[TreeSpan, ...], length: int) -> tuple[Tensor, Tensor]:
    """Tree and branch (0: its prompt) of each token, (T,); a padding token is a tree of its own."""
    tree, branch = -torch.arange(1, length + 1), torch.zeros(length, dtype=torch.long)
    for number, span in enumerate(spans):
        part = slice(span.start, span.start + span.length)
        sizes = torch.tensor([span.prompt, *span.branches])
        tree[part] = number
        branch[part] = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    return tree, branch


def tree_flex_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: FlexLayout,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query (1, H, T, d), key and value (1, H / groups, T, d) -> (1, T, H, d)."""
    if not query.is_cuda and query.requires_grad:
        raise UserError("model.attention = flex: FlexAttention has no backward pass on CPUs; set auto or tree")

    cap = softcap or 0.0

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    attend = _compiled if query.is_cuda else flex_attention
    out = attend(
        query,
        key,
        value,
        score_mod=capped if cap else None,
        block_mask=trees.mask(sliding_window),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2), None


def _compiled(*args: Any, **kwargs: Any) -> Tensor:
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    return torch.compile(flex_attention, dynamic=False)(*args, **kwargs)


AttentionInterface.register(NAME, tree_flex_attention)
