"""Runs the demo's model for long on two ranks, saving and evaluating, and measures what it holds on to.

    python benchmarks/faults/soak.py [--steps 2000] [--save-every 50] [--evaluate-every 200] [--out DIR]

Looks at every rank from outside, twice a second: resident memory, open files, threads. The first two evaluations are
the warm-up; the tenth of the samples that follows is compared with the last tenth. Memory is a tenth's median; files
and threads are its minimum, for a save holds some for a moment. Prints one JSON line; exit status 1 where memory grows
by 2 % or more, or files or threads by any.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from altpo_ds.demo.corpus import CorpusFiles, write_corpus
from altpo_ds.demo.model import build_model, build_tokenizer, save
from altpo_ds.engine.distributed import free_port
from altpo_ds.train.tracking import METRICS, read_metrics

RANKS = 2
INTERVAL = 0.5  # seconds between samples
LIMIT = 2.0  # percent
PARTS = 10


@dataclass(frozen=True)
class Sample:
    """What a rank holds at a moment."""

    step: int
    rss: int  # bytes
    files: int
    threads: int


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_run(folder: Path, options: argparse.Namespace) -> Path:
    """An untrained model, an invented world with the templates as alternates, and a run file."""
    corpus: CorpusFiles = write_corpus(folder / "data", seed=0)
    tokenizer = build_tokenizer([row[key] for row in read_jsonl(corpus.vocabulary) for key in ("question", "answer")])
    save(build_model(tokenizer, seed=0), tokenizer, folder / "model")
    alternates = [row | {"alternates": row["templates"]} for row in read_jsonl(corpus.forget)]
    (folder / "alternates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alternates))
    run = {
        "run_dir": str(folder / "run"),
        "model": {"path": str(folder / "model")},
        "data": {
            "forget": {"path": str(corpus.forget)},
            "alternates": {"path": str(folder / "alternates.jsonl")},
            "retain": {"path": str(corpus.retain)},
        },
        "train": {
            "epochs": options.steps,
            "max_steps": options.steps,
            "global_batch_size": 4,
            "micro_batch_size": 2,
            "evaluate_every": options.evaluate_every,
            "log_every": 1,
        },
        "checkpoints": {"every": options.save_every},
        "evaluate": {"forget": {"path": str(corpus.forget_perturbed)}, "max_rows": 20, "max_length": 100},
        "tracking": {"examples": 0},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return file


def start(run_file: Path, folder: Path) -> list[psutil.Popen]:
    """The ranks, without a launcher; W&B logs offline, as part of what is measured."""
    common = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    common |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "ALTPO_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "altpo_ds", "unlearn", str(run_file)]
    ranks = []
    for rank in range(RANKS):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"rank-{rank}.log").open("w") as log:
            ranks.append(psutil.Popen(command, env=os.environ | common | own, stdout=log, stderr=subprocess.STDOUT))
    return ranks


def watch(ranks: list[psutil.Popen], run_dir: Path) -> list[list[Sample]]:
    """Samples of each rank until one of them ends."""
    samples: list[list[Sample]] = [[] for _ in ranks]
    step = read = 0
    while all(rank.poll() is None for rank in ranks):
        time.sleep(INTERVAL)
        if (run_dir / METRICS).is_file():
            with (run_dir / METRICS).open() as metrics:
                metrics.seek(read)
                lines = metrics.read().rpartition("\n")[0]
            read += len(lines.encode()) + bool(lines)
            step = max([step, *(json.loads(line)["step"] for line in lines.splitlines())])
        for rank, kept in zip(ranks, samples, strict=True):
            try:
                with rank.oneshot():
                    kept.append(Sample(step, rank.memory_info().rss, rank.num_fds(), rank.num_threads()))
            except psutil.Error:  # it has just ended
                pass
    return samples


def growth(samples: list[Sample], warm_up: int, steps: int) -> dict[str, Any]:
    """Each tenth of the time between the warm-up and the last step, and by how much the last exceeds the first."""
    warm = [sample for sample in samples if warm_up < sample.step < steps]
    bounds = [len(warm) * part // PARTS for part in range(PARTS + 1)]
    parts = [warm[start:end] for start, end in pairwise(bounds)]
    memory = [statistics.median(sample.rss for sample in part) for part in parts]
    return {
        "rss_mib": [round(rss / 2**20, 1) for rss in memory],
        "growth_percent": round(100 * (memory[-1] / memory[0] - 1), 2),
        "files": [min(sample.files for sample in part) for part in parts],
        "threads": [min(sample.threads for sample in part) for part in parts],
    }


def soak(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    run_file = write_run(folder, options)
    begun = time.monotonic()
    ranks = start(run_file, folder)
    try:
        samples = watch(ranks, folder / "run")
        statuses = [rank.wait(120) for rank in ranks]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
    if any(statuses):
        sys.exit((folder / "rank-0.log").read_text()[-3000:])
    metrics = read_metrics(folder / "run" / METRICS)
    found = [growth(of_rank, 2 * options.evaluate_every, options.steps) for of_rank in samples]
    constant = all(each[name][-1] <= each[name][0] for each in found for name in ("files", "threads"))
    return {
        "steps": sum("train/loss" in line for line in metrics),
        "saves": options.steps // options.save_every,
        "evaluations": sum("train/loss" not in line for line in metrics),
        "samples": len(samples[0]),
        "seconds": round(time.monotonic() - begun),
        "ranks": found,
        "passed": constant and all(each["growth_percent"] < LIMIT for each in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--evaluate-every", type=int, default=200)
    parser.add_argument("--out", type=Path, help="new directory to keep; none: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = soak(folder, options)
    print(json.dumps(result))
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
