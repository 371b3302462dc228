"""The order of items: one for any number of ranks, resumable anywhere, a pure function of the seed."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altpo_ds.config.schema import AlternatesSource, DataConfig, RetainSource, Source
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.sources import Place
from altpo_ds.data.stream import Item, Rows, TrainStream, draw_seed, good_rows
from tests.conftest import write_jsonl

FORGET, RETAIN, ALTERNATES = 5, 7, 4
ROWS = Rows(FORGET, RETAIN)


class Data:
    """Files of 5 forget questions with 4 alternates each, and 7 retain rows."""

    def __init__(self, folder: Path) -> None:
        questions = [f"q{i}" for i in range(FORGET)]
        texts = {q: [f"{q} other {j}" for j in range(ALTERNATES)] for q in questions}
        self.forget = write_jsonl(folder / "forget.jsonl", ({"question": q, "answer": f"{q} a"} for q in questions))
        self.retain = write_jsonl(
            folder / "retain.jsonl", ({"question": f"r{i}", "answer": f"r{i} a"} for i in range(RETAIN))
        )
        rows = ({"question": q, "alternates": texts[q]} for q in questions)
        self.index = AlternatesIndex(AlternatesSource(path=str(write_jsonl(folder / "alternates.jsonl", rows))))

    def config(self, k: int = 2, buffer: int = 4, per_pair: int = 1) -> DataConfig:
        return DataConfig(
            forget=Source(path=str(self.forget)),
            retain=RetainSource(path=str(self.retain)),
            train=RetainSource(path=str(self.retain)),
            alternates_per_question=k,
            shuffle_buffer=buffer,
            retain_per_pair=per_pair,
        )

    def stream(
        self, config: DataConfig, rank: int = 0, ranks: int = 1, seed: int = 0, rows: Rows = ROWS, start: int = 0
    ) -> TrainStream:
        stream = TrainStream(config, seed, rows, self.index, rank, ranks)
        stream.load_state_dict({"items_seen": start})
        return stream


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("stream"))


def take(stream: TrainStream, count: int) -> list[Item]:
    return list(itertools.islice(stream, count))


def questions(items: list[Item]) -> list[str]:
    return [str(item.forget.question) for item in items if item.forget is not None]


def retained(items: list[Item]) -> list[str]:
    return [str(row.question) for item in items for row in item.retain]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_take_turns_in_the_same_order(data: Data, ranks: int) -> None:
    whole = take(data.stream(data.config()), 12)
    shares = [take(data.stream(data.config(), rank, ranks), 12 // ranks) for rank in range(ranks)]
    assert [item for turn in zip(*shares, strict=True) for item in turn] == whole


def test_ranks_take_turns_after_a_resume_too(data: Data) -> None:
    whole = take(data.stream(data.config()), 14)
    first = [data.stream(data.config(), rank, 2) for rank in range(2)]
    for stream in first:
        take(stream, 3)
    assert {stream.state_dict()["items_seen"] for stream in first} == {6}
    shares = [take(data.stream(data.config(), rank, 2, start=6), 4) for rank in range(2)]
    assert [item for turn in zip(*shares, strict=True) for item in turn] == whole[6:]


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 3 * FORGET), st.sampled_from([0, 3, 100]), st.integers(0, 2))
def test_resume_anywhere_equals_the_uninterrupted_stream(data: Data, start: int, buffer: int, per_pair: int) -> None:
    config = data.config(buffer=buffer, per_pair=per_pair)
    whole = take(data.stream(config, seed=1), 3 * FORGET + 3)
    stopped = data.stream(config, seed=1)
    take(stopped, start)
    resumed = data.stream(config, seed=1, start=stopped.state_dict()["items_seen"])
    assert take(resumed, 3 * FORGET + 3 - start) == whole[start:]


def test_epochs_are_different_permutations_of_the_rows(data: Data) -> None:
    asked = questions(take(data.stream(data.config(buffer=100)), 4 * FORGET))
    epochs = [asked[i : i + FORGET] for i in range(0, len(asked), FORGET)]
    assert all(sorted(epoch) == [f"q{i}" for i in range(FORGET)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert asked != questions(take(data.stream(data.config(buffer=100), seed=1), 4 * FORGET))


def test_without_a_buffer_rows_come_in_file_order(data: Data) -> None:
    items = take(data.stream(data.config(buffer=0)), 2 * FORGET)
    assert questions(items) == [f"q{i}" for i in range(FORGET)] * 2
    assert retained(items) == [f"r{i % RETAIN}" for i in range(4 * FORGET)]


def test_alternates_depend_on_seed_epoch_and_row_alone(data: Data) -> None:
    first = take(data.stream(data.config(k=2)), 4 * FORGET)
    other = take(data.stream(data.config(k=2, per_pair=3)), 4 * FORGET)
    assert [(item.forget, item.alternates) for item in first] == [(item.forget, item.alternates) for item in other]
    for item in first:
        assert item.forget is not None
        assert len(set(item.alternates)) == 2
        assert all(text.startswith(f"{item.forget.question} other") for text in item.alternates)
    by_question = {(q, item.alternates) for q, item in zip(questions(first), first, strict=True)}
    assert len(by_question) > FORGET  # another draw in another epoch
    again = take(data.stream(data.config(k=2), seed=9), 4 * FORGET)
    reseeded = {(q, item.alternates) for q, item in zip(questions(again), again, strict=True)}
    assert reseeded != by_question


def test_a_question_short_of_alternates_gives_all_it_has(data: Data) -> None:
    [item] = take(data.stream(data.config(k=9, buffer=0)), 1)
    assert item.alternates == tuple(f"q0 other {j}" for j in range(ALTERNATES))


@pytest.mark.parametrize(("k", "per_pair"), [(1, 1), (2, 1), (3, 2)])
def test_retain_rows_cycle_through_their_file(data: Data, k: int, per_pair: int) -> None:
    items = take(data.stream(data.config(k=k, per_pair=per_pair)), 2 * RETAIN)
    assert {len(item.retain) for item in items} == {k * per_pair}
    rows = retained(items)
    passes = [rows[i : i + RETAIN] for i in range(0, len(rows), RETAIN)]
    assert all(sorted(each) == [f"r{i}" for i in range(RETAIN)] for each in passes)
    assert len({tuple(each) for each in passes}) > 1


def test_skipped_rows_do_not_appear(data: Data) -> None:
    skipped = frozenset({Place(str(data.forget), 2), Place(str(data.retain), 1)})
    rows = Rows(FORGET - 1, RETAIN - 1, skipped)
    items = take(data.stream(data.config(), rows=rows), 3 * (FORGET - 1))
    assert set(questions(items)) == {"q0", "q2", "q3", "q4"}
    assert set(retained(items)) == {f"r{i}" for i in range(1, RETAIN)}
    assert len(list(good_rows(data.config().forget, skipped))) == FORGET - 1  # pyright: ignore[reportArgumentType]


def test_fine_tuning_takes_single_rows(data: Data) -> None:
    stream = TrainStream(data.config(), 0, Rows(0, RETAIN), None, 0, 1)
    items = take(stream, 2 * RETAIN)
    assert all(item.forget is None and item.alternates == () and len(item.retain) == 1 for item in items)
    first, second = retained(items[:RETAIN]), retained(items[RETAIN:])
    assert sorted(first) == sorted(second) == [f"r{i}" for i in range(RETAIN)]
    assert first != second


def test_draw_seed_is_the_same_in_every_process() -> None:
    # the first four bytes of sha256("0/forget/1")
    assert draw_seed(0, "forget", 1) == 1680624755
    assert draw_seed(0, "forget", 1) != draw_seed(0, "retain", 1)
