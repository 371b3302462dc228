"""What the command refuses before it starts anything, with one line and status 2."""

from pathlib import Path
from typing import Any

import pytest

from altpo_ds import cli
from tests.sweep.test_sweep_file import RUN_DIR, write

EVALUATED = ["--train.evaluate_every=1", "--evaluate.retain_reference=retain.json"]


@pytest.mark.parametrize(
    ("keys", "options", "expected"),
    [
        ({}, ["--ranks=2"], "--ranks 2: is for --offline alone"),
        ({}, ["--offline", "--sbatch=--nodes=2"], "--sbatch=--nodes=2: goes with --slurm; add it"),
        ({}, ["--offline", "--slurm"], "sbatch: not found"),
        ({"method": "random"}, ["--offline"], "method random has no end: set run_cap, or give --count"),
        ({"method": "random"}, ["--slurm"], "method random has no end: set run_cap, or give --count"),
        ({}, ["--offline", "--ranks=2"], "command: has no ${interpreter}; its launcher sets the ranks"),
        ({}, ["--offline"], "no trial would have eval/forget_quality_log10, eval/model_utility: add --train.evaluate"),
        ({"more": EVALUATED[:1]}, ["--offline"], "add --evaluate.retain_reference=FILE, the retain model's evaluation"),
        ({"metric": {"name": "eval/model_utility"}}, ["--offline"], "no trial would have eval/model_utility"),
    ],
)
def test_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keys: dict[str, Any],
    options: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch there
    more = keys.pop("more", [])
    file = write(tmp_path, command=["altpo-ds", "unlearn", "${program}", RUN_DIR, *more, "${args}"], **keys)
    monkeypatch.setattr("sys.argv", ["altpo-ds", "sweep", str(file), *options])
    assert cli.main() == 2
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()
