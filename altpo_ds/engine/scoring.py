"""Scores many trees on all ranks in step: for the reference cache and for evaluation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from altpo_ds.data.trees import PackedTrees, Tree, pack
from altpo_ds.engine.distributed import World, gather_objects
from altpo_ds.objective.log_probs import response_sums

Forward = Callable[[PackedTrees], tuple[Tensor, Tensor]]


def micro_batches(trees: Sequence[Tree], tokens: int) -> list[list[int]]:
    """Indices of trees in batches of at most `tokens` tokens (or one tree), those of like length together."""
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(trees)), key=lambda i: -trees[i].unique_tokens):
        if trees[i].unique_tokens > room:
            batches.append([])
            room = max(tokens, trees[i].unique_tokens)
        batches[-1].append(i)
        room -= trees[i].unique_tokens
    return batches


@torch.no_grad()
def score_trees(forward: Forward, trees: Sequence[Tree], tokens: int, world: World) -> list[list[float]]:
    """Summed log-probability of every response of this rank's trees. All ranks call it, with any number of trees."""
    batches = micro_batches(trees, tokens)
    idle = pack([Tree((0,), ((0,),))])  # keeps a rank in step with those that have more batches
    scores: list[list[float]] = [[] for _ in trees]
    for number in range(max(gather_objects(len(batches)))):
        batch = batches[number] if number < len(batches) else []
        packed = (pack([trees[i] for i in batch]) if batch else idle).to(world.device)
        log_probs, _ = forward(packed)
        sums = iter(response_sums(log_probs, packed.response, len(packed.counts)).tolist())
        for i in batch:
            scores[i] = [next(sums) for _ in trees[i].responses]
    return scores
