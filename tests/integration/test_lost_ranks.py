"""A rank that is killed, and one that hangs: the other ends in time, names it, and leaves nothing half-written."""

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from altpo_ds.config.errors import FAILED
from altpo_ds.engine import checkpoints, manifest
from tests.conftest import Tiny
from tests.ranks import running

TIMEOUT = 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "rank", "within"), [(signal.SIGKILL, 0, 8), (signal.SIGSTOP, 1, TIMEOUT + 10)], ids=["killed", "hanging"]
)
def test_the_other_rank_ends_and_names_it(
    tiny: Tiny, tmp_path: Path, number: signal.Signals, rank: int, within: float
) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text("run_dir: unused\nmodel: {path: unused}\n")
    options = {"train__epochs": 10_000, "checkpoints__every": 1, "engine__timeout": TIMEOUT}
    arguments = ["unlearn", str(run_file), *tiny.options(tmp_path / "run", **options)]
    with running(arguments, tmp_path / "logs") as ranks:
        ranks.wait_for(lambda: "step 3/" in ranks.text())
        survivor = ranks.processes[1 - rank]
        children = psutil.Process(survivor.pid).children(recursive=True)
        ranks.signal(rank, number)
        begun = time.monotonic()
        assert survivor.wait(60) == FAILED, ranks.text(1 - rank)
        assert time.monotonic() - begun < within
        said = [line for line in ranks.text(1 - rank).splitlines() if line.startswith("altpo-ds:")]
        assert len(said) == 1
        assert f"lost rank {rank} in step " in said[0]
        assert "Traceback" not in ranks.text(1 - rank)
        assert not [child for child in children if child.is_running()]
    for folder in checkpoints.complete(tmp_path / "run" / "checkpoints"):
        for name, about in json.loads((folder / manifest.NAME).read_text())["files"].items():
            assert (folder / name).stat().st_size == about["size"]
