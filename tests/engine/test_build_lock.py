"""A killed kernel build does not block the next run."""

import os
import time
from pathlib import Path

import pytest

from altpo_ds.engine.zero import BUILD_LIMIT, _drop_stale_build_lock


def test_only_a_stale_build_lock_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    stale, fresh = tmp_path / "cpu_adam" / "lock", tmp_path / "other" / "lock"
    for lock in (stale, fresh):
        lock.parent.mkdir()
        lock.touch()
    old = time.time() - BUILD_LIMIT - 1
    os.utime(stale, (old, old))
    _drop_stale_build_lock()
    assert not stale.exists()
    assert fresh.exists()
