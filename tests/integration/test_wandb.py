"""What the real W&B client sends of a run: all of it that the run names, and nothing else."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from altpo_ds.config.errors import PREEMPTED
from altpo_ds.config.schema import ModelConfig, RunConfig, TrackingConfig
from altpo_ds.train.tracking import METRICS, Tracker, read_metrics
from altpo_ds.train.wandb_run import RUN_ID
from tests.conftest import ROOT
from tests.integration.wandb_stub import KEY, WandbStub

pytestmark = pytest.mark.slow

QUESTION, WEIGHT = "Where was the secret author born?", "secret weights"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbStub]:
    """A stub of the server, and an environment in which W&B knows it and nothing of the user's."""
    import wandb

    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    with WandbStub([]).serving() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()
        yield stub
        wandb.teardown()


def track(run_dir: Path, upload: list[Any], step: int, status: int) -> None:
    """Two steps of a run after `step`, with everything that it could send."""
    tracking = TrackingConfig(project="p", group="g", tags=["t"], upload=upload)
    config = RunConfig(run_dir=str(run_dir), seed=7, model=ModelConfig(path="m"), tracking=tracking)
    tracker = Tracker(config, step)
    utilities = [0.1, 0.9, 0.5, 0.3]
    for now in (step + 1, step + 2):
        tracker.log(now, {"train/loss": 3.0 - now, "train/grad_norm": None, "eval/model_utility": utilities[now - 1]})
    tracker.examples(step + 2, [{"question": QUESTION, "answer": "a", "generation": "g", "rouge_l": 0.5}])
    (run_dir / "report.html").write_text(QUESTION)
    (run_dir / "step-2").mkdir(exist_ok=True)
    (run_dir / "step-2" / "weights").write_text(WEIGHT)
    tracker.artifact("report", run_dir / "report.html")
    tracker.artifact("checkpoint", run_dir / "step-2")
    tracker.close(status)


def test_metrics_alone_unless_more_is_named(server: WandbStub, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    track(run_dir, [], 0, PREEMPTED)
    run = server.runs[(run_dir / RUN_ID).read_text()]
    assert (run.exit_code, run.preempting) == (PREEMPTED, True)
    track(run_dir, [], 2, 0)  # the same W&B run goes on
    assert list(server.runs) == [run.name]
    assert run.exit_code == 0
    assert run.series("train/loss") == {1: 2.0, 2: 1.0, 3: 0.0, 4: -1.0}
    assert run.series("train/grad_norm") == {}
    assert (run.summary["eval/model_utility"], run.summary["best/eval/model_utility"]) == (0.3, 0.9)
    assert run.summary["best/train/loss"] == -1.0
    assert (run.config["seed"], run.config["objective"]["beta"]) == (7, 0.1)
    assert run.settings["groupName"] == "g"
    assert run.settings["jobType"] == "unlearn"
    assert run.settings["tags"] == ["t"]
    assert run.files == {"config.yaml", "wandb-summary.json"}
    assert server.artifacts == []
    sent = b"".join(body for _, _, body in server.requests)
    for private in (QUESTION, WEIGHT, os.uname().nodename, sys.argv[0]):
        assert private.encode() not in sent


def test_what_is_named_arrives(server: WandbStub, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    track(run_dir, ["examples", "report", "checkpoints"], 0, 0)
    name = (run_dir / RUN_ID).read_text()
    assert set(server.artifacts) == {f"run-{name}-examples", f"report-{name}", f"checkpoint-{name}"}
    assert QUESTION.encode() in server.uploads[f"report-{name}/report.html"]
    assert QUESTION.encode() in server.uploads[f"run-{name}-examples/examples.table.json"]
    reference = server.uploads[f"checkpoint-{name}/manifest.json"]
    assert (run_dir / "step-2" / "weights").as_uri().encode() in reference
    assert not any(WEIGHT.encode() in body for _, _, body in server.requests)


def test_an_offline_run_is_synced(server: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (0, 2):
        track(run_dir, [], step, 0)
    assert not server.runs
    monkeypatch.delenv("WANDB_MODE")
    entry = [sys.executable, "-m", "altpo_ds", "sync", str(run_dir)]
    done = subprocess.run(entry, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    [run] = server.runs.values()
    assert run.name == (run_dir / RUN_ID).read_text()
    assert run.series("train/loss") == {1: 2.0, 2: 1.0, 3: 0.0, 4: -1.0}
    assert run.summary["best/eval/model_utility"] == 0.9
    entry[-1] = str(tmp_path)
    done = subprocess.run(entry, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert "nothing to send" in done.stderr


@pytest.mark.parametrize("how", ["silent", "killed"])
def test_wandb_lost_in_the_middle(
    server: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The server answers no more, or the client's own process is gone: the run goes on, and ends in bounded time."""
    import wandb

    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    tracker = Tracker(RunConfig(run_dir=str(tmp_path), model=ModelConfig(path="m")), 0)
    tracker.log(1, {"train/loss": 1.0})
    over = threading.Event()
    begun = time.monotonic()
    if how == "silent":
        monkeypatch.setattr(server, "answer", lambda *_: over.wait())
    else:
        [service] = [child for child in psutil.Process().children(recursive=True) if "wandb-core" in child.name()]
        service.kill()
        service.wait()
    for step in range(2, 50):
        tracker.log(step, {"train/loss": 1.0})
    assert time.monotonic() - begun < 5
    tracker.close(0)
    assert time.monotonic() - begun < 20
    over.set()
    with contextlib.suppress(Exception):  # the client's own farewell to a process that was killed
        wandb.teardown()
    assert [line["step"] for line in read_metrics(tmp_path / METRICS)] == list(range(1, 50))
    assert caplog.text.count("is lost") == (how == "killed")
