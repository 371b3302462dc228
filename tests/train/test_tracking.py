"""metrics.jsonl goes on where the run resumed; W&B's own client writes an offline run and continues it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from altpo_ds.config.schema import ModelConfig, RunConfig, TrackingConfig
from altpo_ds.train.tracking import METRICS, Tracker
from altpo_ds.train.wandb_run import RUN_ID, WandbRun
from tests.conftest import metrics_of


def config_of(run_dir: Path, wandb: bool = False) -> RunConfig:
    tracking = TrackingConfig(wandb=wandb, name="a run", tags=["test"])
    return RunConfig(run_dir=str(run_dir), model=ModelConfig(path="m"), tracking=tracking)


def test_a_line_per_step(tmp_path: Path) -> None:
    tracker = Tracker(config_of(tmp_path), 0)
    tracker.log(1, {"train/loss": 2.5, "train/grad_norm": None})
    assert metrics_of(tmp_path)[0]["train/loss"] == 2.5  # there at once, not when the run ends
    tracker.log(2, {"train/loss": 1.5})
    tracker.examples(2, [{"question": "q"}])
    tracker.close()
    assert [(line["step"], line["train/loss"]) for line in metrics_of(tmp_path)] == [(1, 2.5), (2, 1.5)]
    assert metrics_of(tmp_path)[0]["train/grad_norm"] is None


@pytest.mark.parametrize("cut", ["", '{"step": 3, "train/lo', '{"step": 2', "\0\0"])
def test_lines_after_the_resumed_step_and_a_cut_one_go(tmp_path: Path, cut: str) -> None:
    lines = [json.dumps({"step": step, "train/loss": step / 2}) for step in (1, 2, 2, 3, 4)]
    (tmp_path / METRICS).write_text("\n".join(lines) + "\n" + cut)
    tracker = Tracker(config_of(tmp_path), 2)
    tracker.log(3, {"train/loss": 9.0})
    tracker.close()
    assert [(line["step"], line["train/loss"]) for line in metrics_of(tmp_path)] == [(1, 0.5), (2, 1), (2, 1), (3, 9)]
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """W&B offline, with no settings, key or cache of the user's."""
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield monkeypatch
    import wandb

    wandb.teardown()


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_wandb_run(offline: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    tracker = Tracker(config_of(run_dir, wandb=True), 0)
    tracker.log(1, {"train/loss": 2.5, "train/grad_norm": None})
    tracker.examples(1, [{"question": "q", "answer": "a", "generation": "g", "rouge_l": 0.5, "truth_ratio": None}])
    tracker.close()
    run_id = (run_dir / RUN_ID).read_text()
    assert run_id
    resumed = Tracker(config_of(run_dir, wandb=True), 1)
    assert [sink.run.id for sink in resumed.sinks if isinstance(sink, WandbRun)] == [run_id]
    resumed.log(2, {"train/loss": 1.5})
    resumed.close()
    assert (run_dir / RUN_ID).read_text() == run_id
    written = list((run_dir / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert written
    content = b"".join(file.read_bytes() for file in written)
    assert b"train/loss" in content
    assert b"train/grad_norm" not in content
    assert [line["step"] for line in metrics_of(run_dir)] == [1, 2]


@pytest.mark.slow
def test_without_a_key_it_says_so_once_and_goes_on_offline(
    offline: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    offline.delenv("WANDB_MODE")
    wandb.teardown()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with caplog.at_level(logging.WARNING, "altpo_ds.train.wandb_run"):
        tracker = Tracker(config_of(run_dir, wandb=True), 0)
        tracker.log(1, {"train/loss": 2.5})
        tracker.log(2, {"train/loss": 1.5})
        tracker.close()
    said = [record.message for record in caplog.records if record.name == "altpo_ds.train.wandb_run"]
    assert len(said) == 1
    assert "no W&B key here: logging offline" in said[0]
    assert list((run_dir / "wandb").glob("offline-run-*"))


def test_tensorboard_goes_on_after_the_resumed_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracking = TrackingConfig(wandb=False, tensorboard=True)
    config = RunConfig(run_dir=str(tmp_path), model=ModelConfig(path="m"), tracking=tracking)
    for begin, losses in ((0, {1: 2.5, 2: 2.0, 3: 1.5}), (2, {3: 1.0})):
        tracker = Tracker(config, begin)
        for step, loss in losses.items():
            tracker.log(step, {"train/loss": loss, "train/grad_norm": None})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.5), (2, 2.0), (3, 1.0)]
