"""Which rank and accumulation step scores which trees, so that none waits for a longer one."""

import heapq
from collections.abc import Sequence
from itertools import count
from math import inf


def balance(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Indices in `parts` groups of about the same total size, the largest group first.

    The largest differencing method (Karmarkar and Karp 1982): the two most uneven partial solutions become one, the
    largest group of either joined to the smallest of the other. No group is empty where there are `parts` sizes.
    """
    empty: list[tuple[int, list[int]]] = [(0, [])] * (parts - 1)
    order = count()
    solutions = [(-size, next(order), [(size, [index]), *empty]) for index, size in enumerate(sizes)]
    heapq.heapify(solutions)
    while len(solutions) > 1:
        (*_, one), (*_, other) = heapq.heappop(solutions), heapq.heappop(solutions)
        pairs = zip(one, reversed(other), strict=True)
        groups = sorted(((a + b, left + right) for (a, left), (b, right) in pairs), reverse=True)
        heapq.heappush(solutions, (groups[-1][0] - groups[0][0], next(order), groups))
    return [sorted(group) for *_, groups in solutions for _, group in groups]


def balance_within(sizes: Sequence[int], ranks: int, passes: int, limit: float = inf) -> list[list[int]]:
    """`balance` over ranks x passes groups, with the fewest more passes that keep every group within `limit`.

    A size beyond it has a group of its own. No group is empty where the number of sizes is a multiple of the ranks, as
    that of a global batch is.
    """
    while True:
        groups = balance(sizes, ranks * passes)
        if all(len(group) < 2 or sum(sizes[index] for index in group) <= limit for group in groups):
            return groups
        passes += 1


def turns(groups: Sequence[list[int]], rank: int, ranks: int) -> list[list[int]]:
    """A rank's groups of len(groups) / ranks turns: ranks take groups of like size in a turn, back and forth."""
    places = (rank if turn % 2 == 0 else ranks - 1 - rank for turn in range(len(groups) // ranks))
    return [groups[turn * ranks + place] for turn, place in enumerate(places)]
