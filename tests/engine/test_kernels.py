"""Kernels are built by one process at a time, and a killed build does not block the next run."""

import threading
from pathlib import Path

import pytest

from altpo_ds.engine import kernels


def test_a_stale_lock_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    stale = tmp_path / "cpu_adam" / "lock"
    stale.parent.mkdir()
    stale.touch()
    with kernels.alone():
        assert not stale.exists()


def test_a_build_under_way_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    events: list[str] = []

    def other() -> None:
        with kernels.alone():
            events.append("other")

    with kernels.alone():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        events.append("first")
    thread.join(10)
    assert events == ["first", "other"]


def test_a_build_that_fails_says_why() -> None:
    assert kernels.build("NoSuchBuilder")
