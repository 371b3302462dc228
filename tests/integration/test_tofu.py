"""The example run on real rows with a real pretrained model: a few steps of each command."""

import json
import math
import os
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command, losses_of, metrics_of

EXAMPLE = ROOT / "examples" / "tofu_smollm2.yaml"
FINETUNE = ROOT / "examples" / "tofu_smollm2_finetune.yaml"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("ALTPO_CACHE") or base / "altpo_ds") / "smollm2-135m-instruct"
    if not path.is_dir():
        pytest.skip("SmolLM2 is not prepared on this machine: make smollm2")
    return path


@pytest.mark.slow
def test_example_runs_on_tofu(command: Command, shared: Path, smollm2: Path, tmp_path: Path) -> None:
    tofu = shared / "data" / "tofu"
    common = ["--tracking.wandb=false", f"--model.path={smollm2}"]
    run_dir = tmp_path / "unlearn"
    forget = tmp_path / "forget.jsonl"
    forget.write_text("".join((tofu / "forget01.jsonl").read_text().splitlines(keepends=True)[:4]))
    unlearn = [
        *common,
        f"--run_dir={run_dir}",
        f"--data.forget.path={forget}",
        f"--data.alternates.path={shared / 'data' / 'alternates' / 'tofu_forget01_llama2-7b_k5.jsonl'}",
        f"--data.retain.path={tofu / 'retain99.jsonl'}",
        "--train.global_batch_size=1",
        "--train.max_steps=3",
        "--train.warmup=0",
    ]
    splits = ("forget01", "retain", "real_authors", "world_facts")
    names = ("forget", "retain", "real_authors", "world_facts")
    evaluate = [
        f"--evaluate.{name}.path={tofu / f'{split}_perturbed.jsonl'}" for name, split in zip(names, splits, strict=True)
    ]
    evaluate += ["--evaluate.max_rows=2", "--evaluate.max_length=80", f"--run_dir={run_dir}", *common]
    finetune = [*common, f"--run_dir={tmp_path / 'full'}", f"--data.train.path={tofu / 'full.jsonl'}"]
    finetune += ["--train.max_steps=2", "--train.global_batch_size=4", "--train.micro_batch_size=4"]
    calls = [("unlearn", EXAMPLE, unlearn), ("evaluate", EXAMPLE, evaluate), ("finetune", FINETUNE, finetune)]
    for verb, example, options in calls:
        result = command._run(["-m", "altpo_ds", verb, str(example), *options], 1, {"OMP_NUM_THREADS": "2"})
        assert result.returncode == 0, result.stderr[-3000:]
    # At the first step the policy is the reference: every pair costs 2 / beta * log 2.
    first = metrics_of(run_dir)[0]
    assert first["train/loss_forget"] == pytest.approx(2 / 0.1 * math.log(2), rel=1e-3)
    assert first["data/forget_seen"] == 1
    assert len(losses_of(run_dir)) == 3
    assert losses_of(tmp_path / "full")[1] < 10
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    assert 0 < evaluation["metrics"]["retain_probability"] < 1
    assert evaluation["metrics"]["model_utility"] is not None
    assert evaluation["settings"]["rows"] == dict.fromkeys(names, 2)
    assert "forget_quality" in evaluation["reasons"]
