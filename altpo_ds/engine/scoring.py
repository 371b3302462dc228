"""Scores many trees on all ranks in step: for the reference cache and for evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from altpo_ds.data.trees import PackedTrees, Tree, pack
from altpo_ds.engine import preemption
from altpo_ds.engine.distributed import World, gather_objects
from altpo_ds.objective.log_probs import response_sums

Forward = Callable[..., tuple[Tensor, Tensor]]
"""(packed trees, indices of response tokens whose distributions are wanted) -> as SequenceScorer.forward."""

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 64  # distributions reduced at a time
IMPOSSIBLE = -1e4  # log-probability of a token that cannot come


@dataclass(frozen=True)
class TokenScores:
    """Of a response's tokens, the end-of-turn token included, (n,) each; mean and variance are those of log p
    over the vocabulary, under p.
    """

    log_probs: Tensor
    greedy: Tensor  # whether the token is the likeliest one
    mean: Tensor
    variance: Tensor


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


def shared_out(
    items: Sequence[Item],
    length: Callable[[Item], int],
    work: Callable[[list[Item]], Sequence[Result]],
    world: World,
) -> list[Result]:
    """Results of all items, in order, on every rank: each rank works on its share, of every length alike."""
    order = sorted(range(len(items)), key=lambda i: length(items[i]))
    mine = order[world.rank :: world.size]
    results = work([items[i] for i in mine])
    found = {i: result for part in gather_objects(list(zip(mine, results, strict=True))) for i, result in part}
    return [found[i] for i in range(len(items))]


def _passes(trees: Sequence[Tree], tokens: int, world: World) -> Iterator[tuple[list[int], PackedTrees]]:
    """Batches of indices with their trees packed; every rank gets the same number, empty ones at the end."""
    batches = micro_batches(trees, tokens)
    idle = pack([Tree((0,), ((0,),))])  # keeps a rank in step with those that have more batches
    for number in range(max(gather_objects(len(batches)))):
        preemption.pulse(world)
        batch = batches[number] if number < len(batches) else []
        yield batch, (pack([trees[i] for i in batch]) if batch else idle).to(world.device)


@torch.no_grad()
def score_trees(forward: Forward, trees: Sequence[Tree], tokens: int, world: World) -> list[list[float]]:
    """Summed log-probability of every response of this rank's trees. All ranks call it, with any number of trees."""
    scores: list[list[float]] = [[] for _ in trees]
    for batch, packed in _passes(trees, tokens, world):
        log_probs, _ = forward(packed)
        sums = iter(response_sums(log_probs, packed.response, len(packed.counts)).tolist())
        for i in batch:
            scores[i] = [next(sums) for _ in trees[i].responses]
    return scores


@torch.no_grad()
def score_tokens(
    forward: Forward, trees: Sequence[Tree], tokens: int, world: World
) -> list[tuple[list[float], TokenScores]]:
    """As `score_trees`, in the same pass with the first response of each tree token by token.

    The distributions of its tokens are held for a whole pass: `tokens` bounds their memory.
    """
    scores: dict[int, tuple[list[float], TokenScores]] = {}
    for batch, packed in _passes(trees, tokens, world):
        counts = [len(trees[i].responses) for i in batch] or [1]
        firsts = torch.tensor([sum(counts[:number]) for number in range(len(counts))], device=world.device)
        chosen = torch.isin(packed.response, firsts).nonzero()[:, 0]
        log_probs, distributions = forward(packed, chosen)
        sums = iter(response_sums(log_probs, packed.response, len(packed.counts)).tolist())
        details = _reduce(distributions, packed.targets[chosen])
        lengths = packed.counts[firsts].tolist()
        split = zip(*(part.split(lengths) for part in details), strict=True)
        for i, detail in zip(batch, split, strict=False):
            scores[i] = ([next(sums) for _ in trees[i].responses], TokenScores(*detail))
    return [scores[i] for i in range(len(trees))]


def _reduce(distributions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of TokenScores, on the CPU: (M, V) log-probabilities and targets (M,) -> four times (M,)."""
    parts = []
    for log_p, target in zip(distributions.split(CHUNK), targets.split(CHUNK), strict=True):
        p, log_p = log_p.exp(), log_p.clamp(min=IMPOSSIBLE)  # 0 times it is 0
        mean = (p * log_p).sum(-1)
        variance = (p * log_p.square()).sum(-1) - mean.square()
        parts.append((log_p.gather(-1, target[:, None])[:, 0], log_p.argmax(-1) == target, mean, variance))
    log_probs, greedy, mean, variance = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    return log_probs, greedy, mean, variance
