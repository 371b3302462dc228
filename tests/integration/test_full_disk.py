"""A run whose disk fills up says so on one line, and its last checkpoint is whole and usable."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import write_whole
from altpo_ds.engine import checkpoints
from altpo_ds.engine.export import export, newest
from altpo_ds.train.tracking import MetricsFile
from tests.conftest import Command, Tiny, metrics_of

pytestmark = pytest.mark.slow

Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes a disk of its own with the options of `mount`, such as size=10m."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("altpo-ds: error: ")]


def test_a_disk_that_fills_up(command: Command, tiny: Tiny, tmp_path: Path, disk: Disk) -> None:
    run_dir = disk("size=24m") / "run"
    options = tiny.options(run_dir, checkpoints__every=1, checkpoints__keep=9, train__epochs=9)
    done = command("unlearn", options, ranks=2)
    assert done.returncode != 0
    assert "exitcode  : 2 " in done.stderr
    [line] = error_lines(done)
    assert f"cannot write checkpoint '{run_dir}/checkpoints/step-" in line
    assert "No space left" in line or "the previous one is intact" in line
    complete = checkpoints.complete(run_dir / "checkpoints")
    assert complete
    assert metrics_of(run_dir)[-1]["step"] >= len(complete)
    assert sorted((run_dir / "checkpoints").iterdir()) == complete  # nothing of the one that had no room
    model = export(newest(run_dir), tmp_path / "model")
    assert (model / "model.safetensors").stat().st_size > 10_000


def test_a_disk_that_can_only_be_read(disk: Disk) -> None:
    run_dir = disk("ro") / "run"
    with pytest.raises(UserError, match=f"cannot write '{run_dir}': Read-only file system; choose another place"):
        write_whole(run_dir / "config.yaml", "text")  # a run's first file


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_metrics_on_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    metrics = MetricsFile(tmp_path, 0)
    with pytest.raises(UserError, match=r"metrics.jsonl': No space left on device; free some space"):
        metrics.log(1, {"train/loss": 1.0})
