"""Offline sweeps of real runs: workers side by side, one killed in the middle, one trial pruned."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from altpo_ds.sweep.file import read_sweep
from altpo_ds.sweep.study import JOURNAL, Study
from tests.conftest import ROOT, Tiny, losses_of, write_jsonl

pytestmark = pytest.mark.slow


def write_sweep(folder: Path, tiny: Tiny, options: dict[str, object], **keys: Any) -> Path:
    words = [word for word in tiny.options(folder, **options) if not word.startswith("--run_dir")]
    words += [f"--run_dir={folder}/runs/$WANDB_RUN_ID", "${args}"]
    (folder / "run.yaml").write_text("run_dir: unused\nmodel: {path: unused}\n")
    command = ["${env}", "${interpreter}", "-m", "altpo_ds", "unlearn", "${program}", *words]
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"program": str(folder / "run.yaml"), "command": command, **keys}, sort_keys=False))
    return file


Start = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a worker; none outlives its test."""
    workers: list[subprocess.Popen[str]] = []

    def run(file: Path) -> subprocess.Popen[str]:
        environment = os.environ | {"ALTPO_CACHE": str(file.parent / "cache"), "OMP_NUM_THREADS": "1"}
        environment |= {"COLUMNS": "150", "PYTHONPATH": str(ROOT)}
        entry = [sys.executable, "-m", "altpo_ds", "sweep", str(file), "--offline"]
        pipe = subprocess.PIPE
        workers.append(subprocess.Popen(entry, stdout=pipe, stderr=pipe, text=True, env=environment))
        return workers[-1]

    yield run
    for worker in workers:
        worker.terminate()
        worker.wait()


def finish(worker: subprocess.Popen[str]) -> str:
    """What a worker printed."""
    out, err = worker.communicate(timeout=300)
    assert worker.returncode == 0, err
    return out


def journal(file: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(file.parent / "runs" / JOURNAL)))
    return optuna.load_study(study_name=None, storage=storage)


def test_workers_share_a_sweep_and_continue_a_killed_one(tmp_path: Path, tiny: Tiny, start: Start) -> None:
    rows = [json.loads(line) for line in tiny.perturbed.read_text().splitlines()[:4]]
    perturbed = write_jsonl(tmp_path / "perturbed.jsonl", rows)
    reference = [row | {"paraphrased_nll": 2.0, "perturbed_nll": [1.0, 2.0, 3.0]} for row in rows]
    (tmp_path / "retain.json").write_text(json.dumps({"metrics": {}, "per_example": {"forget": reference}}))
    options: dict[str, object] = {
        "train__max_steps": 3,
        "train__evaluate_every": 3,
        "checkpoints__every": 1,
        "checkpoints__keep": 3,
        **{f"evaluate__{split}__path": perturbed for split in ("forget", "retain", "real_authors", "world_facts")},
        "evaluate__retain_reference": tmp_path / "retain.json",
        "evaluate__max_length": 40,
    }
    parameters = {"objective.beta": {"values": [0.1, 0.5]}, "data.alternates_per_question": {"value": 1}}
    file = write_sweep(tmp_path, tiny, options, method="grid", parameters=parameters)
    killed = start(file)
    first = until(lambda: next((tmp_path / "runs").glob("*-000/checkpoints/step-1"), None)).parents[1]
    [trial] = [pid for pid in children(killed.pid) if pid != killed.pid]
    os.killpg(trial, signal.SIGKILL)
    killed.kill()
    killed.communicate()
    begun = losses_of(first)[:1]
    workers = [start(file), start(file)]
    printed = [finish(worker) for worker in workers]
    assert sum("continued: objective.beta=0.1" in text for text in printed) == 1
    assert losses_of(first)[:1] == begun
    document = json.loads((tmp_path / "runs" / "sweep.json").read_text())
    assert [trial["state"] for trial in document["trials"]] == ["complete", "complete"]
    assert [trial["parameters"]["objective.beta"] for trial in document["trials"]] == [0.1, 0.5]
    for trial in document["trials"]:
        run_dir = tmp_path / "runs" / trial["name"]
        metrics = json.loads((run_dir / "evaluation.json").read_text())["metrics"]
        assert trial["metrics"]["eval/model_utility"] == metrics["model_utility"]
        assert trial["metrics"]["eval/forget_quality_log10"] == metrics["forget_quality_log10"]
        assert len(losses_of(run_dir)) == 3
        assert trial["name"] in (tmp_path / "runs" / "report.html").read_text()
    assert document["pareto_front"]
    again = finish(start(file))  # nothing is left: the summary alone
    assert "2 trials" in again
    assert "Pareto front of forget quality and model utility: " in again
    assert [len(losses_of(tmp_path / "runs" / trial["name"])) for trial in document["trials"]] == [3, 3]


def test_a_trial_behind_the_median_is_pruned(tmp_path: Path, tiny: Tiny, start: Start) -> None:
    file = write_sweep(
        tmp_path,
        tiny,
        {"train__epochs": 1000},
        method="random",
        run_cap=6,
        metric={"name": "train/loss", "goal": "minimize"},
        early_terminate={"type": "hyperband", "min_iter": 2},
        parameters={"objective.beta": {"min": 0.1, "max": 0.5}},
    )
    study = Study(read_sweep(file))
    for value in range(5):  # trials of the past that were better than any can be
        better = {"params": {"objective.beta": 0.2}, "distributions": study.distributions}
        values = dict.fromkeys(range(1, 9), -1.0)
        study.study.add_trial(create_trial(**better, value=-1.0 - value, intermediate_values=values))
    assert "pruned" in finish(start(file))
    pruned = journal(file).trials[5]
    assert pruned.state == TrialState.PRUNED
    losses = losses_of(tmp_path / "runs" / study.name(5))
    assert 2 <= len(losses) < 3000
    assert [pruned.intermediate_values[step + 1] for step in range(2)] == losses[:2]


def until(found: Any, seconds: float = 240) -> Any:
    """What a function returns once it returns something."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
