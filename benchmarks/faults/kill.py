"""Kills a run over and over with SIGKILL, and compares what it ends with to a run that nobody killed.

    python benchmarks/faults/kill.py [--kills 40] [--seed 0] [--keep DIR]

A small model is unlearned on two ranks, with a checkpoint every 3 steps, an evaluation every 8 and W&B offline. Each
start is killed, one rank or all, at a moment drawn from: while it starts, some steps after it continued, inside a save,
inside an evaluation, while W&B writes. The next start must continue after the newest checkpoint that was complete when
the ranks were gone. In the end losses, evaluations and exported weights must be those of the other run, bit for bit,
and no step may be in metrics.jsonl twice. Prints one JSON line; the status is 1 where anything differs.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from altpo_ds.demo.model import build_model, build_tokenizer, save
from altpo_ds.engine.distributed import free_port

RANKS = 2
SAVE_EVERY, EVALUATE_EVERY = 3, 8
MOMENTS = ("start", "steps", "save", "evaluation", "wandb")
DEADLINE = 300  # seconds in which an awaited moment comes, or a rank ends whose peer was killed


def prepare(folder: Path, steps: int) -> list[str]:
    """Model, rows and run file; the arguments of the run but its directory."""
    cities = ["Norwick", "Elmstead", "Port Avel", "Sundby", "Marlow", "Quill Bay"]

    def row(i: int) -> dict[str, Any]:
        here, *others = cities[i % 6 :] + cities[: i % 6]
        return {
            "question": f"Where was author number {i} born?",
            "answer": f"Author number {i} was born in {here}.",
            "alternates": [f"Author number {i} was born in {there}." for there in others],
            "paraphrased_answer": f"Author {i} comes from {here}.",
            "perturbed_answer": [f"Author {i} comes from {there}." for there in others],
        }

    rows = [row(i) for i in range(42)]
    for name, part in {"forget": rows[:12], "retain": rows[12:], "evaluate": rows[:4]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    tokenizer = build_tokenizer([r["question"] + r["answer"] for r in rows], vocab_size=400)
    save(build_model(tokenizer, seed=0), tokenizer, folder / "model")
    options = {
        "model.path": folder / "model",
        "data.forget.path": folder / "forget.jsonl",
        "data.alternates.path": folder / "forget.jsonl",
        "data.retain.path": folder / "retain.jsonl",
        "data.alternates_per_question": 2,
        "train.global_batch_size": 4,
        "train.lr": 0.001,
        "train.epochs": 100_000,
        "train.max_steps": steps,
        "train.evaluate_every": EVALUATE_EVERY,
        "evaluate.forget.path": folder / "evaluate.jsonl",
        "evaluate.max_length": 40,
        "checkpoints.every": SAVE_EVERY,
        "engine.timeout": 200,
    }
    (folder / "run.yaml").write_text("run_dir: unused\nmodel: {path: unused}\n")
    return [str(folder / "run.yaml"), *(f"--{key}={value}" for key, value in options.items())]


class Start:
    """One start of the run: its ranks as processes, and what rank 0 writes on standard error."""

    def __init__(self, arguments: list[str], run_dir: Path, log: Path) -> None:
        self.run_dir, self.log = run_dir, log
        shared = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        quiet = {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "altpo_ds", "unlearn", *arguments, f"--run_dir={run_dir}"]
        self.ranks = []
        for rank in range(RANKS):
            with log.with_suffix(f".{rank}").open("w") as stream:
                environment = os.environ | shared | quiet | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                self.ranks.append(subprocess.Popen(command, env=environment, stderr=stream, stdout=stream))

    @property
    def steps(self) -> list[int]:
        """Steps that this start has taken."""
        return [int(step) for step in re.findall(r"^step (\d+)/", self.log.with_suffix(".0").read_text(), re.MULTILINE)]

    @property
    def running(self) -> bool:
        return all(rank.poll() is None for rank in self.ranks)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Whether the condition came true while all ranks ran."""
        end = time.monotonic() + DEADLINE
        while self.running and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.001)
        return False

    def wait_for_moment(self, moment: str, draw: random.Random) -> bool:
        """Waits for what the kill aims at; False where it did not come."""
        delay = draw.uniform(0, 0.05)
        if moment == "start":
            delay, came = draw.uniform(0, 12), True
        elif not self.wait_for(lambda: bool(self.steps)):
            return False
        elif moment == "steps":
            wanted = draw.randint(1, 5)
            came = self.wait_for(lambda: len(self.steps) >= wanted)
        elif moment == "save":
            came = self.wait_for(lambda: any((self.run_dir / "checkpoints").glob(".step-*.partial")))
        elif moment == "evaluation":
            came = self.wait_for(lambda: self.steps[-1] % EVALUATE_EVERY == 0)
            delay = draw.uniform(0, 0.3)
        else:
            size = _wandb_bytes(self.run_dir)
            came = self.wait_for(lambda: _wandb_bytes(self.run_dir) != size)
        time.sleep(delay)
        return came and self.running

    def kill(self, ranks: list[int]) -> bool:
        """Kills ranks; whether the others then end by themselves. None is left.

        A rank that waits for one that never joined waits as long as torch lets it: it is ended, as a launcher would.
        """
        joined = bool(self.steps)
        for rank in ranks if joined else range(RANKS):
            self.ranks[rank].send_signal(signal.SIGKILL)
        alone = True
        for rank in self.ranks:
            try:
                rank.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                alone = False
                rank.kill()
                rank.wait()
        return alone


def _wandb_bytes(run_dir: Path) -> int:
    return sum(file.stat().st_size for file in run_dir.glob("wandb/*/*.wandb"))


def newest(run_dir: Path) -> int:
    """Step of the newest complete checkpoint; 0 without one."""
    found = [int(path.parent.name[5:]) for path in run_dir.glob("checkpoints/step-*/manifest.json")]
    return max(found, default=0)


def killed(arguments: list[str], folder: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Starts the run and kills it, `kills` times, then lets it end. What happened, counted."""
    run_dir, count, wrong, hung = folder / "killed", Counter[str](), 0, 0
    for number in range(kills):
        moment, victims = draw.choice(MOMENTS), draw.choice([[0], [1], [0, 1]])
        before = newest(run_dir)
        start = Start(arguments, run_dir, folder / f"start-{number:03}")
        came = start.wait_for_moment(moment, draw)
        hung += not start.kill(victims)
        steps = start.steps
        wrong += bool(steps) and steps[0] != before + 1
        count[moment if came else f"{moment} (not met)"] += 1
        print(
            f"kill {number + 1}: {moment}, ranks {victims}, after {before}, steps {steps}", file=sys.stderr, flush=True
        )
    before = newest(run_dir)
    last = Start(arguments, run_dir, folder / "start-last")
    statuses = [rank.wait() for rank in last.ranks]
    wrong += bool(last.steps) and last.steps[0] != before + 1
    return {
        "moments": dict(sorted(count.items())),
        "wrong_starts": wrong,
        "hung_survivors": hung,
        "last_status": max(map(abs, statuses)),
    }


def lines(run_dir: Path, name: str) -> list[tuple[int, Any]]:
    """(step, value) of a metric, line by line."""
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line[name]) for line in found if name in line]


def weights(run_dir: Path, to: Path) -> bytes:
    """The exported weights."""
    command = [sys.executable, "-m", "altpo_ds", "export", str(run_dir), "--to", str(to)]
    subprocess.run(command, check=True, capture_output=True)
    return (to / "model.safetensors").read_bytes()


def compare(whole: Path, broken: Path, folder: Path) -> dict[str, Any]:
    """What the killed run has otherwise than the other one."""
    losses, evaluations = "train/loss", "eval/forget_probability"
    twice = sum(len(lines(broken, name)) - len(dict(lines(broken, name))) for name in (losses, evaluations))
    return {
        "steps": len(lines(whole, losses)),
        "losses_equal": lines(whole, losses) == lines(broken, losses),
        "evaluations": len(lines(whole, evaluations)),
        "evaluations_equal": lines(whole, evaluations) == lines(broken, evaluations),
        "weights_equal": weights(whole, folder / "whole-model") == weights(broken, folder / "killed-model"),
        "steps_twice": twice,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, help="new directory for run directories and logs; default: a temporary one"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        begun = time.monotonic()
        arguments = prepare(folder, steps=6 * options.kills + 12)
        for rank in Start(arguments, folder / "whole", folder / "whole-start").ranks:
            assert rank.wait() == 0, f"the run that nobody kills failed: see {folder}"
        result = killed(arguments, folder, options.kills, random.Random(options.seed))
        result |= compare(folder / "whole", folder / "killed", folder)
    equal = all(result[name] for name in ("losses_equal", "evaluations_equal", "weights_equal"))
    good = equal and not any(result[name] for name in ("wrong_starts", "hung_survivors", "last_status", "steps_twice"))
    seconds = round(time.monotonic() - begun)
    print(json.dumps({"benchmark": "kill", "kills": options.kills, "ok": good, "seconds": seconds, **result}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
