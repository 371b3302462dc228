"""`altpo-ds alternates` with a tiny model: one and two ranks, killed at any time, in shards, reports."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Command, Tiny, write_jsonl

pytestmark = pytest.mark.slow

# An untrained model's words are no answers: what it ends by itself counts as one.
SETTINGS: dict[str, Any] = {"count": 3, "batch_size": 4, "attempts": 3, "max_new_tokens": 60, "min_rouge": 0.0}


def options(tiny: Tiny, run_dir: Path, forget: Path | None = None, **alternates: Any) -> list[str]:
    named = {"run_dir": run_dir, "model.path": tiny.model, "data.forget.path": forget or tiny.forget}
    named |= {f"alternates.{key}": value for key, value in (SETTINGS | alternates).items()}
    return [f"--{key}={value}" for key, value in named.items()]


def written(run_dir: Path) -> str:
    return (run_dir / "alternates.jsonl").read_text()


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_same_seed_gives_the_same_bytes(tiny: Tiny, command: Command, tmp_path: Path, ranks: int) -> None:
    calls = [("alternates", options(tiny, tmp_path / name)) for name in ("a", "b")]
    calls.append(("alternates", [*options(tiny, tmp_path / "c"), "--seed=1"]))
    done = command.many(calls, ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    assert written(tmp_path / "a") == written(tmp_path / "b") != written(tmp_path / "c")
    rows = [json.loads(line) for line in written(tmp_path / "a").splitlines()]
    questions = [json.loads(line)["question"] for line in tiny.forget.read_text().splitlines()]
    assert [row["question"] for row in rows] == [q for q in questions if q in {row["question"] for row in rows}]
    summary = json.loads((tmp_path / "a" / "alternates.summary.json").read_text())
    assert summary["questions"] == len(questions) == 12
    assert summary["alternates"] >= 6
    assert summary["quality"]["log_prob"] < -4  # an untrained model's guess among 400 tokens
    assert summary["tokens_per_s"] > 0
    assert done.stdout.count("questions that stayed short") == 3  # from rank 0 alone


def test_killed_at_any_time_it_continues_to_the_same_bytes(tiny: Tiny, command: Command, tmp_path: Path) -> None:
    rows = ({"question": f"Where was author {i} born?", "answer": f"Author {i} was born in Zell."} for i in range(60))
    forget = write_jsonl(tmp_path / "many.jsonl", rows)
    arguments = {name: options(tiny, tmp_path / name, forget) for name in ("a", "b")}
    draw = random.Random()
    for _ in range(2):
        _kill_after(draw.randint(4, 12), arguments["a"], command)
    assert list((tmp_path / "a").glob("*.partial/*.sqlite"))
    for name in ("a", "b"):
        done = command("alternates", arguments[name], ranks=2)
        assert done.returncode == 0, done.stderr[-3000:]
    assert written(tmp_path / "a") == written(tmp_path / "b") != ""
    assert not list((tmp_path / "a").glob("*.partial"))


def _kill_after(changes: int, arguments: list[str], command: Command) -> None:
    """Starts two ranks, and kills them all once their shards have changed so many times."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "altpo_ds"]
    process = subprocess.Popen(
        [*launch, "alternates", str(command._run_file()), *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    out, seen = Path(arguments[0].partition("=")[2]), set()
    while len(seen) < changes:
        assert process.poll() is None, "it ended before it could be killed"
        seen |= {(file.name, file.stat().st_mtime_ns) for file in out.glob("*.partial/*.sqlite")}
        time.sleep(0.01)
    _kill_all(arguments[0])
    process.wait()


def _kill_all(mark: str) -> None:
    """Launcher and ranks: every process with this run directory on its command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                    os.kill(int(folder.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue


def test_tasks_of_an_array_seeds_and_the_judge(tiny: Tiny, command: Command, tmp_path: Path) -> None:
    shards = [("alternates", options(tiny, tmp_path / "shards", shards=2, shard=shard)) for shard in (1, 0)]
    seeds = ("alternates", options(tiny, tmp_path / "seeds", seeds=[4, 5], max_leak=1.0))
    judged = ("alternates", options(tiny, tmp_path / "judged", judge="self", count=1, candidates=3))
    done = command.many([*shards, seeds, judged])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "shard 1 is written; the last of 2 merges them" in done.stdout
    assert json.loads((tmp_path / "shards" / "alternates.summary.json").read_text())["questions"] == 12
    names = {path.name for path in (tmp_path / "seeds").glob("*.jsonl") if "short" not in path.name}
    assert names == {"alternates.seed4.jsonl", "alternates.seed5.jsonl"}
    rated = [json.loads(line)["meta"] for line in written(tmp_path / "judged").splitlines()]
    assert all(1 < meta["ratings"][0] < 9 for meta in rated)
    outranked = [meta for meta in rated if any(item["reason"] == "outranked" for item in meta["rejected"])]
    assert outranked


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_report_of_files_that_are_there(tiny: Tiny, command: Command, tmp_path: Path, ranks: int) -> None:
    rows = [json.loads(line) for line in tiny.alternates.read_text().splitlines()]
    long = write_jsonl(
        tmp_path / "long.jsonl",
        (
            {"question": row["question"], "answer": row["answer"], "sub_answer": text}
            for row in rows
            for text in row["alternates"]
        ),
    )
    arguments = ["--report-only", str(long), "--report-only", str(tiny.alternates)]
    done = command("alternates", [*arguments, *options(tiny, tmp_path / "none")], ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = {cells[1].strip(): [cell.strip() for cell in cells[2:4]] for cells in _table(done.stdout)}
    assert lines["questions"] == ["12", "12"]
    assert lines["alternates"] == ["36", "36"]
    for measure in ("log-probability per token ↑", "ROUGE-L to the answer", "acceptable, of those"):
        assert lines[measure][0] == lines[measure][1] != "–"
    assert not (tmp_path / "none").exists()


def _table(text: str) -> list[list[str]]:
    return [line.split("│") for line in text.splitlines() if line.count("│") >= 3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": "chatt"}, "known: chat"),
        ({"backend": "vllm"}, "alternates.backend = vllm: not installed; pip install 'altpo_ds[vllm]'"),
        ({"max_new_tokens": 250}, "exceed the model's 256 positions"),
        ({"max_rouge": 0.0}, "must be below max_rouge"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tiny: Tiny, command: Command, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    done = command("alternates", options(tiny, tmp_path / "run", **changes))
    assert done.returncode == 2
    message = [line for line in done.stderr.splitlines() if line.startswith("altpo-ds: error: ")]
    assert len(message) == 1
    assert expected in message[0]
    assert "Traceback" not in done.stderr
