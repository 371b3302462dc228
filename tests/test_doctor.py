"""The doctor looks at the real machine; what it would say of another one is told by taking things away."""

import contextlib
import io
from pathlib import Path

import pytest

from altpo_ds import cli, doctor


def run(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["altpo-ds", "doctor", "--run-dir", str(run_dir)])
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        return cli.main(), out.getvalue()


@pytest.mark.slow
def test_this_machine_can_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" + "b" * 34)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    status, text = run(monkeypatch, tmp_path / "not" / "there")
    assert status == 0
    lines = {cells[2].strip(): cells for line in text.splitlines() if len(cells := line.split("│")) > 4}
    assert "✓" in lines["process group"][1]
    assert "all-reduce of two processes" in lines["process group"][3]
    assert f"'{tmp_path}'" in lines["run directory"][3]
    assert "torch" in lines["packages"][3]
    assert "a key is here" in lines["W&B"][3]
    assert "5ec2e7" not in text
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_lack_that_stops_a_run_is_status_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lacks = [doctor.Finding("a", False, "", "do this", needed=True), doctor.Finding("b", False, "", "do that")]
    monkeypatch.setattr(doctor, "examine", lambda run_dir: iter(lacks))
    status, text = run(monkeypatch, tmp_path)
    assert status == 2
    assert "do this" in text
    monkeypatch.setattr(doctor, "examine", lambda run_dir: iter(lacks[1:]))
    assert run(monkeypatch, tmp_path)[0] == 0


def test_what_is_not_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not (found := doctor.compiler()).good
    assert "apt-get install g++" in found.remedy
    assert doctor.slurm().found == "no sbatch, srun, squeue"


def test_a_driver_without_a_gpu_for_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("DS_ACCELERATOR", "")
    assert doctor.accelerator().stops
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert doctor.accelerator().good


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = doctor.disk("run directory", tmp_path / "file" / "run")
    assert found.stops
    assert "Not a directory" in found.found


def test_a_package_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "altpo-ds-no-such-package"))
    assert doctor.packages().stops
    assert doctor.packages().remedy == "pip install altpo-ds-no-such-package"


def test_wandb_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not doctor.wandb_login().good
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 5ec2e7\n")
    assert doctor.wandb_login().good
    (tmp_path / "netrc").write_text("machine other.example login user password 5ec2e7\n")
    assert not doctor.wandb_login().good
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert doctor.wandb_login().good
