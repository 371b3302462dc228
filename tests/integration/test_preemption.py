"""Signals at every stage of a 2-rank run: nothing is lost, nothing is done twice."""

import signal
import time
from pathlib import Path

import pytest

from altpo_ds.config.errors import INTERRUPTED, PREEMPTED
from altpo_ds.engine import checkpoints
from tests.conftest import Tiny, metrics_of
from tests.ranks import running

STEPS = 40


def arguments(tiny: Tiny, folder: Path, **more: object) -> list[str]:
    run_file = folder / "run.yaml"
    run_file.write_text("run_dir: unused\nmodel: {path: unused}\n")
    options = tiny.options(folder / "run", train__epochs=100, train__max_steps=STEPS, **more)
    return ["unlearn", str(run_file), *options]


def steps_saved(run_dir: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints.complete(run_dir / "checkpoints")]


def test_a_signal_before_torch_is_there_ends_at_once(tiny: Tiny, tmp_path: Path) -> None:
    with running(arguments(tiny, tmp_path), tmp_path) as ranks:
        time.sleep(0.5)
        for rank in (0, 1):
            ranks.signal(rank, signal.SIGTERM)
        assert ranks.statuses(10) == [PREEMPTED, PREEMPTED]
    assert "preempted: start the same command again" in ranks.text(0)
    assert ranks.text(1) == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ranks_agree_save_and_continue(tiny: Tiny, tmp_path: Path) -> None:
    """USR1 to one rank in training; then Ctrl-C, as it comes twice through a launcher, in the last evaluation."""
    run_dir = tmp_path / "run"
    options = arguments(
        tiny,
        tmp_path,
        train__evaluate_every=STEPS,
        evaluate__forget__path=tiny.perturbed,
        evaluate__max_length=200,
        evaluate__batch_tokens=200,  # one row at a time: an evaluation of seconds
        evaluate__max_rows=8,
    )
    with running(options, tmp_path / "a") as ranks:
        ranks.wait_for(lambda: "step 3/" in ranks.text())
        ranks.signal(1, signal.SIGUSR1)
        assert ranks.statuses() == [PREEMPTED, PREEMPTED], ranks.text()
    [step] = steps_saved(run_dir)
    assert 3 <= step < STEPS
    assert f"preempted at step {step}: checkpoint saved, start the same command again" in ranks.text()
    with running(options, tmp_path / "b") as ranks:
        ranks.wait_for(lambda: f"step {STEPS}/" in ranks.text())
        for _ in range(2):
            ranks.signal(0, signal.SIGINT)
        assert ranks.statuses() == [INTERRUPTED, INTERRUPTED], ranks.text()
    assert f"interrupted at step {STEPS}: checkpoint saved" in ranks.text()
    assert not (run_dir / "evaluation.json").exists()
    with running(options, tmp_path / "c") as ranks:
        assert ranks.statuses() == [0, 0], ranks.text()
    assert (run_dir / "evaluation.json").is_file()
    trained = [line["step"] for line in metrics_of(run_dir) if "train/loss" in line]
    evaluated = [line["step"] for line in metrics_of(run_dir) if "train/loss" not in line]
    assert trained == list(range(1, STEPS + 1))
    assert evaluated == [0, STEPS]
