"""How far a run is, told from its directory alone."""

import json
import os
from pathlib import Path

import pytest

from altpo_ds.config.errors import UserError
from altpo_ds.status import read_status

SCONTROL = """#!/bin/sh
echo "$@" >> {folder}/asked
echo "JobId=7 JobName=a b JobState=PENDING Reason=BeginTime Restarts=2 RunTime=00:00:09 NodeList=(null)"
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Ten of forty steps, 2 s each, a pause before the last; the newest checkpoint is cut off."""
    (tmp_path / "config.yaml").write_text("run_dir: x\n")
    (tmp_path / "provenance.json").write_text('{"steps": 40}')
    times = [100.0 + 2 * step for step in range(9)] + [9000.0]
    lines = [json.dumps({"step": step, "time": time, "train/loss": 1.0}) for step, time in enumerate(times, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 11, "ti']))
    for step in (4, 8, 10):
        checkpoint = tmp_path / "checkpoints" / f"step-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "shard.pt").write_bytes(b"12345")
        (checkpoint / "manifest.json").write_text(json.dumps({"step": step, "files": {"shard.pt": {"size": 5}}}))
    (tmp_path / "checkpoints" / "step-10" / "shard.pt").write_bytes(b"123")
    return tmp_path


def test_a_run_under_way(run_dir: Path) -> None:
    status = read_status(run_dir)
    assert (status.step, status.steps, status.finished) == (10, 40, False)
    assert status.seconds_per_step == 2.0
    assert status.eta_seconds == 60.0
    assert status.checkpoint == str(run_dir / "checkpoints" / "step-8")
    assert status.incomplete == [str(run_dir / "checkpoints" / "step-10")]
    assert "rate: 2 s a step, about 0:01:00 left" in status.lines()


def test_a_finished_run(run_dir: Path) -> None:
    (run_dir / "checkpoints" / "step-8").rename(run_dir / "checkpoints" / "step-40")
    status = read_status(run_dir)
    assert status.finished
    assert status.eta_seconds is None
    assert json.loads(status.json())["finished"] is True


def test_what_slurm_says_of_its_jobs(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_dir / "slurm").mkdir()
    (run_dir / "slurm" / "unlearn.job").write_text("7\n")
    (run_dir / "slurm" / "evaluate.job").write_text("7; rm -r x\n")  # no number: nothing is asked
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))
    [_, job] = read_status(run_dir).jobs
    assert job == {"id": "7", "verb": "unlearn", "log": f"{run_dir}/slurm/unlearn-7*.log"}
    (bin_folder / "scontrol").write_text(SCONTROL.format(folder=tmp_path))
    (bin_folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    status = read_status(run_dir)
    assert status.jobs[1] == job | {"state": "PENDING", "restarts": "2", "reason": "BeginTime", "run_time": "00:00:09"}
    assert status.lines()[-1].startswith("job 7 (unlearn): state PENDING, restarts 2, reason BeginTime")
    assert (tmp_path / "asked").read_text() == "--oneliner show job 7\n"


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        read_status(tmp_path)
