"""A run continues on another number of ranks, ZeRO stage or optimizer; the same run twice gives the same bits."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from altpo_ds.config.errors import UserError
from altpo_ds.engine import manifest
from altpo_ds.engine.export import export
from tests.conftest import REFRESHED, Command, Tiny, losses_of, metrics_of

pytestmark = pytest.mark.slow

STEPS = {"train__max_steps": 4, "checkpoints__every": 2, "checkpoints__keep": 4, "data__max_tokens": 57}
# name of a run on two ranks: what it adds to the run of the name "first"
RUNS: dict[str, dict[str, object]] = {
    "first": {},
    "again": {"checkpoints__asynchronous": True},
    "zero2": {"engine__deepspeed": "zero2"},
    "zero0": {"engine__deepspeed": "zero0"},
    "refreshed": REFRESHED,
}
# on one rank: the run that continues, and what its configuration changes
CHANGED: list[tuple[str, dict[str, object]]] = [
    ("again", {}),
    ("refreshed", REFRESHED),
    ("first", {"engine__deepspeed": "zero2", "train__micro_batch_size": 2, "train__micro_batch_tokens": 57}),
    ("zero2", {"engine__deepspeed": "zero0"}),
    ("zero0", {"engine__deepspeed": "zero3_cpu"}),
]


class Run:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs on two ranks, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("elastic")
    evaluated = {"train__evaluate_every": 4, "evaluate__forget__path": tiny.perturbed, "evaluate__max_rows": 2}
    more = {"first": evaluated, "again": evaluated}
    calls = [
        ("unlearn", tiny.options(folder / name, **STEPS, **own, **more.get(name, {}))) for name, own in RUNS.items()
    ]
    result = Command(folder).many(calls, ranks=2)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def after_step_2(run_dir: Path, to: Path) -> Path:
    """A copy of a run as it was after step 2."""
    shutil.copytree(run_dir, to)
    shutil.rmtree(to / "checkpoints" / "step-4")
    return to


def test_the_same_run_twice_gives_the_same_bits(runs: Path) -> None:
    first, again = runs / "first", runs / "again"  # the second one saved while it trained
    timed = ("perf/", "time")

    def seen(run_dir: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in metrics_of(run_dir)]

    assert seen(first) == seen(again)
    assert json.loads((first / "evaluation.json").read_text())["per_example"]
    for name in ("metrics", "per_example"):
        values = [json.loads((run / "evaluation.json").read_text())[name] for run in (first, again)]
        assert values[0] == values[1]
    weights = [
        (export(run / "checkpoints" / "step-4", run / "model") / "model.safetensors").read_bytes()
        for run in (first, again)
    ]
    assert weights[0] == weights[1]
    assert all("perf/checkpoint_s" in line for line in metrics_of(again) if "train/loss" in line)


def check(runs: Path, name: str, continued: Path, tiny: Tiny) -> None:
    """The continued run repeats the losses of the one that stayed on two ranks, and took every row once."""
    assert losses_of(continued) == pytest.approx(losses_of(runs / name), rel=1e-6, abs=1e-5)
    assert [line["data/forget_seen"] for line in metrics_of(continued) if "train/loss" in line] == [4, 8, 12, 16]


def test_it_continues_on_one_rank_and_refuses_code(runs: Path, tiny: Tiny, tmp_path: Path) -> None:
    calls = []
    for number, (name, changed) in enumerate(CHANGED):
        run_dir = after_step_2(runs / name, tmp_path / str(number))
        calls.append(("unlearn", tiny.options(run_dir, **STEPS, **changed)))
    malicious, mark = after_step_2(runs / "first", tmp_path / "malicious"), tmp_path / "mark"
    shard = malicious / "checkpoints" / "step-2" / "zero" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    shard.write_bytes(pickle.dumps(Run(mark)))
    written = json.loads((shard.parents[1] / manifest.NAME).read_text())
    written["files"][f"zero/{shard.name}"] = manifest.describe(shard).model_dump()
    (shard.parents[1] / manifest.NAME).write_text(json.dumps(written))
    calls.append(("unlearn", tiny.options(malicious, **STEPS)))
    result = Command(tmp_path).many(calls)
    assert result.returncode == 2, result.stderr[-3000:]
    errors = [line for line in result.stderr.splitlines() if line.startswith("altpo-ds: error")]
    assert len(errors) == 1
    assert f"checkpoint file '{shard}'" in errors[0]
    assert "Traceback" not in result.stderr
    with pytest.raises(UserError, match=shard.name):
        export(shard.parents[1], tmp_path / "model")
    assert not mark.exists()
    for number, (name, _) in enumerate(CHANGED):
        check(runs, name, tmp_path / str(number), tiny)


def test_it_continues_on_four_ranks(runs: Path, tiny: Tiny, tmp_path: Path) -> None:
    calls = [
        ("unlearn", tiny.options(after_step_2(runs / name, tmp_path / name), **STEPS, **RUNS[name]))
        for name in ("first", "zero2", "refreshed")
    ]
    result = Command(tmp_path).many(calls, ranks=4)
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("first", "zero2", "refreshed"):
        check(runs, name, tmp_path / name, tiny)
