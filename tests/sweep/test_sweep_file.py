"""Sweep files in W&B's format: what is understood, and the one line for what is wrong."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from altpo_ds.config.errors import UserError
from altpo_ds.sweep.file import read_sweep
from tests.conftest import ROOT

RUN_DIR = "--run_dir=out/$WANDB_RUN_ID"
RUN = {"run_dir": "unused", "model": {"path": "m"}, "train": {"max_steps": 3}}


def write(folder: Path, **keys: Any) -> Path:
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    sweep: dict[str, Any] = {
        "program": str(folder / "run.yaml"),
        "command": ["${env}", "${interpreter}", "-m", "altpo_ds", "unlearn", "${program}", RUN_DIR, "${args}"],
        "method": "grid",
        "parameters": {"objective.beta": {"values": [0.1, 0.5]}},
    }
    file = folder / "sweep.yaml"
    kept = {key: value for key, value in (sweep | keys).items() if value is not None}
    file.write_text(yaml.safe_dump(kept, sort_keys=False))
    return file


def failure(folder: Path, **keys: Any) -> str:
    """The one line for a wrong sweep, without the name of its file."""
    file = write(folder, **keys)
    with pytest.raises(UserError) as caught:
        read_sweep(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


def test_the_command_of_a_trial(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path))
    assert sweep.folder == Path("out")
    assert sweep.run.train.max_steps == 3
    words = sweep.file.words(["--objective.beta=0.1"], ranks=2)
    assert words[0] == "/usr/bin/env"
    assert words[2:5] == ["-m", "torch.distributed.run", "--standalone"]
    assert words[-4:] == [
        "unlearn",
        str(tmp_path / "run.yaml"),
        "--run_dir=out/$WANDB_RUN_ID",
        "--objective.beta=0.1",
    ]
    assert "WANDB_RUN_ID" not in os.environ


def test_environment_variables_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    command = ["altpo-ds", "unlearn", "${program}", "--run_dir=${envvar:RUNS}/$WANDB_RUN_ID", "${args}"]
    sweep = read_sweep(write(tmp_path, command=command))
    assert sweep.folder == tmp_path / "runs"
    assert sweep.file.words([])[-1] == f"--run_dir={tmp_path}/runs/$WANDB_RUN_ID"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {"objective.bta": {"value": 1}},
            "parameters: option --objective.bta: unknown key; did you mean objective.bet",
        ),
        ({"objective.beta": {"values": [0.1, -1]}}, "parameters: option --objective.beta: objective.beta = "),
        ({"objective.beta": {"valeus": [1]}}, "parameters.objective.beta.valeus: unknown key; did you mean values?"),
        ({"train.lr": {"min": 0.1}}, "parameters.train.lr = {'min': 0.1}: give one of: value; values; min and max"),
        ({"train.lr": {"min": 0.1, "max": 0.01}}, "min 0.1 must be below max 0.01"),
        ({"train.lr": {"min": 0.0, "max": 1.0, "distribution": "log_uniform_values"}}, "min 0.0 must be above 0"),
        ({"train.lr": {"min": 0.1, "max": 1.0, "distribution": "normal"}}, "must be 'constant', 'categorical'"),
        ({"train.lr": {"values": [1], "distribution": "uniform"}}, "distribution uniform does not fit its other keys"),
        ({"train.lr": {"min": 0.1, "max": 1.0}}, "parameters.train.lr: uniform has no grid; give values"),
        ({}, "parameters = {}"),
    ],
)
def test_wrong_parameters(tmp_path: Path, parameters: dict[str, Any], expected: str) -> None:
    assert expected in failure(tmp_path, parameters=parameters)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"method": "gird"}, "method = 'gird': must be 'grid', 'random' or 'bayes'"),
        ({"method": None}, "method: missing"),
        ({"run_cpa": 3}, "run_cpa: unknown key; did you mean run_cap?"),
        ({"run_cap": 0}, "run_cap = 0: must be greater than or equal to 1"),
        ({"metric": {"name": "eval/x", "goal": "max"}}, "metric.goal = 'max': must be 'minimize' or 'maximize'"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 2}}, "early_terminate: needs metric"),
        ({"command": ["python", "train.py", "${args}"]}, "command: starts no `unlearn RUN.yaml`"),
        ({"command": ["altpo-ds", "unlearn", "${program}"]}, "command: has no ${args}"),
        ({"command": ["altpo-ds", "unlearn", "${argz}", "${args}"]}, "command: ${argz}: unknown; known are ${env}"),
        ({"command": ["altpo-ds", "unlearn", "${program}", "${args}"]}, "must end in /$WANDB_RUN_ID; add --run_dir="),
    ],
)
def test_wrong_keys(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    assert expected in failure(tmp_path, **keys)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("- a list\n")
    with pytest.raises(UserError, match="holds a list; a sweep file is a mapping with method, parameters and command"):
        read_sweep(tmp_path / "sweep.yaml")


def test_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(Path("examples/sweep.yaml"))
    assert sweep.run.model.path == "runs/tofu/full/model"
    assert sweep.folder == Path("runs/sweep")
