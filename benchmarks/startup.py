"""Times the start: of `altpo-ds --help`, and of `altpo-ds unlearn` from the command to the end of its first step.

    python -m benchmarks.startup --model DIR --forget FILE --alternates FILE --retain FILE [--runs 3]

A first run, which is not counted, fills the reference cache
and builds the kernels. The stages of a start come from runs in which its functions are timed, in seconds. Prints one
JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCES = ("forget", "alternates", "retain")
STAGES = ("start", "load_tokenizer", "_check_data", "write_provenance", "build_reference", "policy_engine")


def help_seconds(runs: int) -> list[float]:
    """Of `altpo-ds --help`, one after the other."""
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "altpo_ds", "--help"], cwd=ROOT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - begin)
    return seconds


def run_file(options: argparse.Namespace, folder: Path) -> Path:
    """A run that writes a line for each step and sends nothing anywhere."""
    settings = {
        "run_dir": str(folder / "run"),
        "model": {"path": options.model},
        "data": {name: {"path": str(Path(getattr(options, name)).resolve())} for name in SOURCES},
        "train": {"global_batch_size": 1, "max_steps": 2},
        "tracking": {"wandb": False},
    }
    file = folder / "run.yaml"
    file.write_text(json.dumps(settings))
    return file


def first_step(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each stage, and `total` from the command to the end of the first step, of a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "benchmarks.startup", "--worker", str(run_file(options, Path(name)))]
        begin = time.time()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(done.stderr[-2000:])
    marks = json.loads(lines[-1])
    return {"total": marks.pop("end") - begin, "before imports": marks.pop("begin") - begin} | marks


def worker(run: str) -> None:
    """The command's own way to its first step, with the stages of `train.run` timed; ends there."""
    seconds: dict[str, float] = {"begin": time.time()}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            begin = time.time()
            result = function(*arguments, **named)
            seconds[name] = seconds.get(name, 0.0) + time.time() - begin
            return result

        return call

    from altpo_ds import __main__ as command
    from altpo_ds.train import run as stages
    from altpo_ds.train.trainer import Trainer

    seconds["imports"] = time.time() - seconds["begin"]
    for name in STAGES:
        setattr(stages, name, timed(name, getattr(stages, name)))
    step = timed("first step", Trainer.train_step)

    def first(trainer: Trainer) -> None:
        step(trainer)
        print(json.dumps(seconds | {"end": time.time()}), flush=True)
        os._exit(0)

    Trainer.train_step = first  # pyright: ignore[reportAttributeAccessIssue]
    sys.argv = ["altpo-ds", "unlearn", run]
    command.entry()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    for name in SOURCES:
        parser.add_argument(f"--{name}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--worker", metavar="RUN.yaml", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
    first_step(options)
    helps = help_seconds(max(5, options.runs))
    starts = [first_step(options) for _ in range(options.runs)]
    totals = [start["total"] for start in starts]
    stages = {name: round(statistics.median(start[name] for start in starts), 2) for name in starts[0]}
    result = {
        "help_s": {"best": round(min(helps), 3), "median": round(statistics.median(helps), 3)},
        "first_step_s": {"best": round(min(totals), 2), "median": round(statistics.median(totals), 2)},
        "stages_s": stages,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
