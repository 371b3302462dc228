"""Prefix trees: a prompt with its responses, packed with others into one row, each token computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """One prompt and the responses that follow it, each to be scored given the prompt alone."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @property
    def unique_tokens(self) -> int:
        return len(self.prompt) + sum(len(response) for response in self.responses)


@dataclass(frozen=True)
class TreeSpan:
    """Where a tree lies in the packed row: start, tokens of its prompt, and tokens of each branch."""

    start: int
    prompt: int
    branches: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.prompt + sum(self.branches)


@dataclass(frozen=True)
class PackedTrees:
    """Trees in one row of T tokens; N response tokens of R responses are scored.

    A branch leaves out its response's last token: nothing is predicted from it.
    """

    input_ids: Tensor  # (1, T)
    position_ids: Tensor  # (1, T), restarting after the prompt in every branch
    predictors: Tensor  # (N,) position whose hidden state predicts the response token
    targets: Tensor  # (N,) the response tokens
    response: Tensor  # (N,) which response a token belongs to, 0 .. R-1
    counts: Tensor  # (R,) tokens of each response
    spans: tuple[TreeSpan, ...]

    def to(self, device: torch.device) -> "PackedTrees":
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "spans"}
        return replace(self, **moved)


def pack(trees: Sequence[Tree]) -> PackedTrees:
    """Packs trees in order; responses are numbered through all of them. Prompts have at least one token."""
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    response: list[int] = []
    counts: list[int] = []
    spans: list[TreeSpan] = []
    for tree in trees:
        start = len(ids)
        ids += tree.prompt
        positions += range(len(tree.prompt))
        for tokens in tree.responses:
            first = len(ids)
            predictors += [start + len(tree.prompt) - 1, *range(first, first + len(tokens) - 1)]
            targets += tokens
            response += [len(counts)] * len(tokens)
            counts.append(len(tokens))
            ids += tokens[:-1]
            positions += range(len(tree.prompt), len(tree.prompt) + len(tokens) - 1)
        spans.append(TreeSpan(start, len(tree.prompt), tuple(len(tokens) - 1 for tokens in tree.responses)))
    return PackedTrees(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        predictors=torch.tensor(predictors),
        targets=torch.tensor(targets),
        response=torch.tensor(response),
        counts=torch.tensor(counts),
        spans=tuple(spans),
    )


def visible(span: TreeSpan, sliding_window: int | None = None, device: torch.device | None = None) -> Tensor:
    """(L, L) bool: which tokens of its tree a token attends to: its prompt's and its own branch's, not later ones.

    `sliding_window` counts positions along the branch, as in the model without packing.
    """
    lengths = torch.tensor([span.prompt, *span.branches], device=device)
    branch = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    order = torch.arange(span.length, device=device)
    starts = torch.cumsum(lengths, 0) - lengths
    position = order - starts[branch] + torch.where(branch > 0, span.prompt, 0)
    same = (branch[:, None] == branch[None, :]) | (branch[None, :] == 0)
    seen = same & (order[:, None] >= order[None, :])
    if sliding_window is not None:
        seen &= position[:, None] - position[None, :] < sliding_window
    return seen
