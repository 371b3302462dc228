"""What goes wrong between nodes is told by name."""

import socket
from pathlib import Path

import pytest

from altpo_ds.config.errors import NodeError, UserError
from altpo_ds.engine.nodes import check_master, check_versions, versions
from tests.conftest import Tiny
from tests.ranks import running


def test_an_address_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    check_master()
    monkeypatch.setenv("MASTER_ADDR", "gpu7.invalid")
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    with pytest.raises(NodeError, match=r"MASTER_ADDR = gpu7\.invalid: n2 cannot resolve it .* IP address of rank 0"):
        check_master()


def test_versions_are_compared_with_rank_0() -> None:
    own = versions()
    assert own["node"] == socket.gethostname()
    check_versions([own, {**own, "node": "elsewhere"}])
    with pytest.raises(UserError, match=r"rank 2 on n2 has torch 1\.0, rank 0 on .* has 2\."):
        check_versions([own, own, {**own, "node": "n2", "torch": "1.0"}])


@pytest.mark.slow
def test_ranks_of_different_environments_do_not_start(tiny: Tiny, tmp_path: Path) -> None:
    """Rank 1 finds another transformers first."""
    older = tmp_path / "older" / "transformers-4.0.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.0.0\n")
    site = f"import os, sys\nif os.environ['RANK'] == '1': sys.path.insert(0, {str(older.parent)!r})\n"
    (tmp_path / "sitecustomize.py").write_text(site)
    run_file = tmp_path / "run.yaml"
    run_file.write_text("run_dir: unused\nmodel: {path: unused}\n")
    arguments = ["unlearn", str(run_file), *tiny.options(tmp_path / "run")]
    with running(arguments, tmp_path, env={"PYTHONPATH": str(tmp_path)}) as ranks:
        assert ranks.statuses() == [2, 2], ranks.text()
    assert "rank 1 on" in ranks.text()
    assert "has transformers 4.0.0, rank 0 on" in ranks.text()
    assert ranks.text(1) == ""
