"""The replay buffer by itself; what needs an engine runs on one and on two ranks."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.alternates.refresh import ReplayBuffer
from tests.conftest import Command, Tiny

ADDED = st.lists(st.tuples(st.sampled_from("pqr"), st.lists(st.sampled_from("abcdef"), max_size=4)), max_size=12)


def test_the_newest_come_first_and_the_oldest_go() -> None:
    buffer = ReplayBuffer(3)
    buffer.add("p", ["a", "b"])
    buffer.add("q", ["c"])
    assert buffer.find("p") == ["b", "a"]
    buffer.add("p", ["a", "d"])  # "a" is new again, "b" the oldest
    assert (buffer.find("p"), buffer.find("q")) == (["d", "a"], ["c"])
    buffer.add("r", ["e", "f", "g", "h"])
    assert (buffer.find("p"), buffer.find("q"), buffer.find("r")) == ([], [], ["h", "g", "f"])


@given(ADDED, st.integers(1, 5), st.integers(0, 12))
def test_a_buffer_with_restored_state_goes_on_as_the_old_one(
    added: list[tuple[str, list[str]]], capacity: int, cut: int
) -> None:
    whole, first, second = ReplayBuffer(capacity), ReplayBuffer(capacity), ReplayBuffer(capacity)
    for question, texts in added:
        whole.add(question, texts)
        assert len(whole) <= capacity
    for question, texts in added[:cut]:
        first.add(question, texts)
    second.load_state_dict(first.state_dict())
    for question, texts in added[cut:]:
        second.add(question, texts)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_with_an_engine(tiny: Tiny, command: Command, tmp_path: Path, ranks: int) -> None:
    done = command._run(["-m", "tests.alternates.ranks", str(tiny.model), str(tmp_path)], ranks, {})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("all checks passed") == ranks
