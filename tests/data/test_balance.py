"""Groups of like size: nothing lost, none empty, more even than turns, on real rows within 5 % of the mean."""

from itertools import islice
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.config.schema import AlternatesSource, DataConfig, RetainSource, Source
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.balance import balance, balance_within, turns
from altpo_ds.data.stream import Item, Rows, TrainStream

SIZES = st.lists(st.integers(1, 500), min_size=8, max_size=60)


def test_differencing_by_hand() -> None:
    # Karmarkar and Karp's example: 8 - 7 = 1 and 6 - 5 = 1 leave 4, 1, 1, which leave 2; longest first leaves 4
    sizes = [8, 7, 6, 5, 4]
    totals = [sum(sizes[index] for index in group) for group in balance(sizes, 2)]
    assert totals == [16, 14]


@given(SIZES, st.integers(1, 8))
def test_every_index_is_in_one_group_and_no_group_is_empty(sizes: list[int], parts: int) -> None:
    groups = balance(sizes, parts)
    assert len(groups) == parts
    assert all(groups)
    assert sorted(index for group in groups for index in group) == list(range(len(sizes)))
    totals = [sum(sizes[index] for index in group) for group in groups]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] - totals[-1] <= max(sizes)


@given(SIZES, st.sampled_from([1, 2, 4]), st.integers(1, 2), st.integers(100, 2000))
def test_a_limit_takes_the_fewest_passes(sizes: list[int], ranks: int, passes: int, limit: int) -> None:
    sizes = sizes[: len(sizes) // ranks * ranks]
    groups = balance_within(sizes, ranks, passes, limit)
    taken = len(groups) // ranks
    assert taken >= passes
    assert all(groups)
    assert sorted(index for group in groups for index in group) == list(range(len(sizes)))

    def over(groups: list[list[int]]) -> bool:
        return any(len(group) > 1 and sum(sizes[index] for index in group) > limit for group in groups)

    assert not over(groups)
    assert all(over(balance(sizes, ranks * fewer)) for fewer in range(passes, taken))


@given(SIZES, st.sampled_from([1, 2, 4]), st.integers(1, 2))
def test_ranks_share_out_the_groups(sizes: list[int], ranks: int, accumulation: int) -> None:
    groups = balance(sizes, ranks * accumulation)
    shares = [turns(groups, rank, ranks) for rank in range(ranks)]
    assert all(len(share) == accumulation for share in shares)
    assert sorted(group for share in shares for group in share) == sorted(groups)


def test_ranks_go_back_and_forth() -> None:
    groups = [[0], [1], [2], [3]]  # the largest first
    assert [turns(groups, rank, 2) for rank in range(2)] == [[[0], [3]], [[1], [2]]]


def words(item: Item) -> list[int]:
    """Sizes of an item's examples; words stand in for tokens, no tokenizer of a real model is at hand."""
    texts = [text for row in (item.forget,) if row is not None for text in (row.question or "", row.answer)]
    rows = [len(f"{row.question} {row.answer}".split()) for row in item.retain]
    return [len(" ".join([*texts, *item.alternates]).split()), *rows]


@pytest.mark.parametrize("batch", [8, 32])
def test_on_tofu_no_micro_batch_is_much_longer_than_the_mean(shared: Path, batch: int) -> None:
    config = DataConfig(
        forget=Source(path=str(shared / "data/tofu/forget10.jsonl"), question="prompt", answer="response"),
        alternates=AlternatesSource(path=str(shared / "data/alternates/tofu_forget10_llama2-7b_k5.jsonl")),
        retain=RetainSource(path=str(shared / "data/tofu/retain90.jsonl")),
    )
    assert config.alternates is not None
    stream = TrainStream(config, 0, Rows(400, 3600), AlternatesIndex(config.alternates), 0, 1)
    for _ in range(4):
        items = [words(item) for item in islice(stream, batch)]
        sizes = [size for item in items for size in item]
        totals = [sum(sizes[index] for index in group) for group in balance(sizes, batch)]
        assert max(totals) <= 1.05 * mean(totals)
        assert max(map(sum, items)) > 1.05 * mean(map(sum, items))  # as they come they are not even
