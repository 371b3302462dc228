"""Every tree is scored once, in batches of bounded size, in the order that it was given."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.data.trees import PackedTrees, Tree
from altpo_ds.engine import scoring
from altpo_ds.engine.distributed import World
from altpo_ds.engine.scoring import micro_batches, score_trees

TREE = st.builds(
    lambda prompt, responses: Tree(tuple(range(prompt)), tuple(tuple(range(1, n + 1)) for n in responses)),
    st.integers(1, 9),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
ALONE = World(0, 1, 0, torch.device("cpu"))


@given(st.lists(TREE, max_size=20), st.integers(1, 60))
def test_every_tree_once_and_no_batch_too_large(trees: list[Tree], tokens: int) -> None:
    batches = micro_batches(trees, tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(trees)))
    for batch in batches:
        assert len(batch) == 1 or sum(trees[i].unique_tokens for i in batch) <= tokens
    lengths = [trees[i].unique_tokens for batch in batches for i in batch]
    assert lengths == sorted(lengths, reverse=True)  # like lengths lie together


def forward(packed: PackedTrees) -> tuple[torch.Tensor, torch.Tensor]:
    """A model that gives token t the log-probability -t."""
    return -packed.targets.double(), torch.zeros(0, 1)


def expected(trees: Sequence[Tree]) -> list[list[float]]:
    return [[-float(sum(response)) for response in tree.responses] for tree in trees]


@given(st.lists(TREE, max_size=12), st.integers(1, 60))
def test_scores_come_back_in_order(trees: list[Tree], tokens: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "gather_objects", lambda value: [value])
        assert score_trees(forward, trees, tokens, ALONE) == expected(trees)


def test_a_rank_with_fewer_batches_stays_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = [Tree((0,), ((1, 2),)), Tree((0, 1), ((3,), (4,)))]
    passes: list[int] = []

    def counted(packed: PackedTrees) -> tuple[torch.Tensor, torch.Tensor]:
        passes.append(len(packed.targets))
        return forward(packed)

    monkeypatch.setattr(scoring, "gather_objects", lambda value: [value, 5])  # another rank has 5 batches
    assert score_trees(counted, trees, 1, ALONE) == expected(trees)
    assert passes == [2, 2, 1, 1, 1]
    passes.clear()
    assert score_trees(counted, [], 1, ALONE) == []
    assert passes == [1] * 5
