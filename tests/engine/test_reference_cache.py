"""Values come back by content, whatever the order, the file or the run that computed them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altpo_ds.data.trees import Tree
from altpo_ds.engine.reference_cache import ReferenceCache, cache_folder, response_keys

KEY = st.integers(-(2**63), 2**63 - 1)


def test_a_key_is_the_content_of_prompt_and_response() -> None:
    first, second = response_keys(Tree((1, 2), ((3, 4), (5,))))
    assert first != second
    assert response_keys(Tree((1, 2), ((5,), (9,), (3, 4)))) == [second, response_keys(Tree((1, 2), ((9,),)))[0], first]
    others = [Tree((1,), ((2, 3, 4),)), Tree((1, 2, 3), ((4,),)), Tree((2, 1), ((3, 4),)), Tree((1, 2), ((4, 3),))]
    assert first not in [response_keys(tree)[0] for tree in others]


def test_keys_are_the_same_in_every_version() -> None:
    # blake2b of the int64 tokens 1 2, a bar, and 3
    assert response_keys(Tree((1, 2), ((3,),))) == [5888282298222859339]


@given(st.dictionaries(KEY, st.floats(-1e6, 0), max_size=30), st.dictionaries(KEY, st.floats(-1e6, 0), max_size=30))
def test_finds_what_was_added(first: dict[int, float], second: dict[int, float]) -> None:
    cache = ReferenceCache(Path("nowhere"))
    cache.add(first)
    cache.add(second)
    merged = first | second
    wanted = [*reversed(merged), *merged]
    assert cache.find(wanted).tolist() == [merged[key] for key in wanted]
    assert cache.missing(wanted) == []


@given(st.sets(KEY, max_size=20), st.lists(KEY, max_size=20))
def test_missing_keys_keep_their_order_and_cannot_be_found(known: set[int], asked: list[int]) -> None:
    cache = ReferenceCache(Path("nowhere"))
    cache.add(dict.fromkeys(known, -1.0))
    missing = [key for key in asked if key not in known]
    assert cache.missing(asked) == missing
    if missing:
        with pytest.raises(KeyError):
            cache.find(asked)
    else:
        assert len(cache.find(asked)) == len(asked)


def test_another_process_reads_the_same_float64_values(tmp_path: Path) -> None:
    file = tmp_path / "new" / "model.safetensors"
    cache = ReferenceCache(file)
    cache.add({5: -0.1, -7: -1 / 3})
    cache.save()
    again = ReferenceCache(file)
    assert again.find([-7, 5]).tolist() == [-1 / 3, -0.1]
    assert again.find([]).dtype == np.float64
    again.add({6: -2.0})
    again.save()
    assert ReferenceCache(file).missing([5, 6, 7]) == [7]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALTPO_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("ALTPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "altpo_ds"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "altpo_ds"
