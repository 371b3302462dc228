"""Times the start: of `altpo-ds --help`, and of `altpo-ds unlearn` from the command to the end of its first step.

    python -m benchmarks.startup --model DIR --forget FILE --alternates FILE --retain FILE [--runs 3]

A first run, which is not counted, fills the reference cache and builds the kernels. The stages of a start come from
runs in which its functions are timed, in seconds. Prints one JSON line.
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


def settings(model: str, **sources: str) -> dict[str, Any]:
    """A run of one question a step that sends nothing anywhere."""
    return {
        "model": {"path": model},
        "data": {name: {"path": str(Path(path).resolve())} for name, path in sources.items()},
        "train": {"global_batch_size": 1, "max_steps": 100},
        "tracking": {"wandb": False},
    }


def first_step(run: dict[str, Any], steps: int = 1) -> dict[str, float]:
    """Seconds of each stage, and `total` from the command to the end of the first step, of a process of its own, and
    the peak of its memory in GiB after so many steps.
    """
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "run.yaml"
        file.write_text(json.dumps(run | {"run_dir": str(Path(name) / "run")}))
        command = [sys.executable, "-m", "benchmarks.startup", "--worker", str(file), "--steps", str(steps)]
        begin = time.time()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(done.stderr[-2000:])
    marks = json.loads(lines[-1])
    return {"total": marks.pop("end") - begin, "before imports": marks.pop("begin") - begin} | marks


def worker(run: str, steps: int) -> None:
    """The command's own way to its first step, with the stages of `train.run` timed; ends after `steps`."""
    seconds: dict[str, float] = {"begin": time.time()}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            begin = time.time()
            result = function(*arguments, **named)
            seconds.setdefault(name, time.time() - begin)
            return result

        return call

    from altpo_ds import __main__ as command
    from altpo_ds.train import run as stages
    from altpo_ds.train.trainer import Trainer, peak_memory_gib

    seconds["imports"] = time.time() - seconds["begin"]
    for name in STAGES:
        setattr(stages, name, timed(name, getattr(stages, name)))
    train_step = timed("first step", Trainer.train_step)

    def watched(trainer: Trainer) -> Any:
        metrics = train_step(trainer)
        seconds.setdefault("end", time.time())
        if trainer.step == steps - 1:
            print(json.dumps(seconds | {"peak_gib": peak_memory_gib(trainer.world.device)}), flush=True)
            os._exit(0)
        return metrics

    Trainer.train_step = watched  # pyright: ignore[reportAttributeAccessIssue]
    sys.argv = ["altpo-ds", "unlearn", run]
    command.entry()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    for name in SOURCES:
        parser.add_argument(f"--{name}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--worker", metavar="RUN.yaml", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.steps)
    run = settings(options.model, **{name: getattr(options, name) for name in SOURCES})
    first_step(run)
    helps = help_seconds(max(5, options.runs))
    starts = [first_step(run) for _ in range(options.runs)]
    totals = [start["total"] for start in starts]
    stages = {name: round(statistics.median(start[name] for start in starts), 2) for name in starts[0]}
    del stages["peak_gib"]
    result = {
        "help_s": {"best": round(min(helps), 3), "median": round(statistics.median(helps), 3)},
        "first_step_s": {"best": round(min(totals), 2), "median": round(statistics.median(totals), 2)},
        "stages_s": stages,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
