"""W&B's client and agent on a sweep file, against a stub of the server: real runs, whose metrics arrive."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, Tiny, losses_of
from tests.integration.wandb_stub import KEY, WandbStub

pytestmark = pytest.mark.slow

TRIALS = [
    {"objective.beta": 0.1, "train.lr": 0.001},
    {"objective.beta": 0.5, "train.lr": 0.001},
    {"objective.beta": 0.1, "train.lr": 0.01},
]


def write_sweep(folder: Path, tiny: Tiny) -> Path:
    options = [word for word in tiny.options(folder) if not word.startswith(("--run_dir", "--tracking", "--train.lr"))]
    options += [
        "--train.max_steps=2",
        "--train.warmup=0",
        f"--run_dir={folder}/runs/$WANDB_RUN_ID",
        "--train.evaluate_every=2",
        f"--evaluate.forget.path={tiny.perturbed}",
        "--evaluate.max_rows=4",
        "--evaluate.max_length=40",
        "--tracking.tags=[swept]",
        "--tracking.upload=[report,checkpoints]",
    ]
    (folder / "run.yaml").write_text("run_dir: unused\nmodel: {path: unused}\n")
    command = ["${env}", "${interpreter}", "-m", "altpo_ds", "unlearn", "${program}", *options, "${args}"]
    parameters = {key: {"values": sorted({trial[key] for trial in TRIALS})} for key in TRIALS[0]}
    sweep = {"program": str(folder / "run.yaml"), "method": "grid", "command": command, "parameters": parameters}
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep))
    return file


def test_agents_run_trials_and_their_metrics_arrive(tmp_path: Path, tiny: Tiny) -> None:
    """Two trials by `wandb sweep` and `wandb agent`, the third by `altpo-ds sweep`, which is both in one."""
    file = write_sweep(tmp_path, tiny)
    with WandbStub(TRIALS).serving() as server:
        (tmp_path / "home").mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment |= {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": KEY,
            "HOME": str(tmp_path / "home"),
            "ALTPO_CACHE": str(tmp_path / "cache"),
            "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",  # the agent's interpreter is `python`
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

        def run(*words: str) -> str:
            entry = [sys.executable, "-m", *words]
            done = subprocess.run(entry, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240)
            assert done.returncode == 0, done.stderr
            return done.stderr

        created = run("wandb", "sweep", "--project", "altpo_ds", str(file))
        assert "wandb agent tester/altpo_ds/sweep" in created
        run("wandb", "agent", "--count", "2", "tester/altpo_ds/sweep")
        assert list(server.runs) == ["trial1", "trial2"]
        run("altpo_ds", "sweep", str(file))
    assert list(server.runs) == ["trial1", "trial2", "trial3"]
    for name, parameters in zip(server.runs, TRIALS, strict=True):
        arrived, run_dir = server.runs[name], tmp_path / "runs" / name
        assert arrived.exit_code == 0
        assert arrived.settings["sweep"] == "sweep"
        assert arrived.settings["tags"] == ["swept"]
        assert arrived.config["objective"]["beta"] == parameters["objective.beta"]
        assert arrived.config["train"]["lr"] == parameters["train.lr"]
        evaluated = json.loads((run_dir / "evaluation.json").read_text())["metrics"]["forget_probability"]
        assert arrived.summary["eval/forget_probability"] == pytest.approx(evaluated)
        assert server.uploads[f"report-{name}/report.html"] == (run_dir / "report.html").read_bytes()
        assert (run_dir / "checkpoints" / "step-2").as_uri().encode() in server.uploads[
            f"checkpoint-{name}/manifest.json"
        ]
        losses = losses_of(run_dir)
        assert arrived.series("train/loss") == pytest.approx({1: losses[0], 2: losses[1]})
        assert arrived.summary["best/train/loss"] == pytest.approx(min(losses))
    first, second, third = (losses_of(tmp_path / "runs" / name) for name in server.runs)
    assert first[0] != second[0]  # another beta
    assert first[0] == third[0]  # the same model before the first step, then another learning rate
    assert first[1] != third[1]
