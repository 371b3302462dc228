"""The command `status`: how far a run is, from its directory, and what Slurm says of its jobs."""

import json
import re
import shutil
import statistics
import subprocess
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from altpo_ds.config.errors import UserError

LATELY = 20  # last metrics lines that the rate is taken from
FIELDS = {"JobState": "state", "Restarts": "restarts", "Reason": "reason", "NodeList": "nodes", "RunTime": "run_time"}


@dataclass(frozen=True)
class Status:
    """What is known of a run; None where the run directory does not say."""

    run_dir: str
    step: int | None
    steps: int | None
    finished: bool  # the last step's checkpoint is complete
    seconds_per_step: float | None
    eta_seconds: float | None
    checkpoint: str | None  # the newest complete one
    incomplete: list[str]  # newer ones that are not
    jobs: list[dict[str, Any]]

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def lines(self) -> list[str]:
        """For people: a line each."""
        step = "no step yet" if self.step is None else f"step {self.step}" + (f" of {self.steps}" if self.steps else "")
        lines = [f"{self.run_dir}: {step}{', finished' if self.finished else ''}"]
        if self.seconds_per_step is not None:
            rate = f"rate: {self.seconds_per_step:.3g} s a step"
            left = "" if self.eta_seconds is None else f", about {timedelta(seconds=round(self.eta_seconds))} left"
            lines.append(rate + left)
        lines.append(f"last checkpoint: {self.checkpoint or 'none'}")
        lines += [f"incomplete checkpoint, not used: {path}" for path in self.incomplete]
        for job in self.jobs:
            known = ", ".join(f"{name.replace('_', ' ')} {job[name]}" for name in FIELDS.values() if job.get(name))
            lines.append(f"job {job['id']} ({job['verb']}): {known or 'not known to Slurm here'}; log {job['log']}")
        return lines


def read_status(run_dir: Path) -> Status:
    """Raises UserError where there is no run."""
    if not (run_dir / "config.yaml").is_file() and not (run_dir / "slurm").is_dir():
        raise UserError(f"{run_dir}: not a run directory (no config.yaml): give the run_dir of a run")
    steps = _json(run_dir / "provenance.json").get("steps")
    lines = [line for line in _metrics(run_dir / "metrics.jsonl") if "train/loss" in line]
    checkpoint, incomplete = _checkpoints(run_dir / "checkpoints")
    saved = _number(checkpoint) if checkpoint else None
    step = max((number for number in (saved, lines[-1]["step"] if lines else None) if number is not None), default=None)
    rate = _seconds_per_step(lines[-LATELY:])
    finished = steps is not None and saved == steps
    left = None if rate is None or steps is None or step is None or finished else rate * (steps - step)
    return Status(
        run_dir=str(run_dir),
        step=step,
        steps=steps,
        finished=finished,
        seconds_per_step=rate,
        eta_seconds=left,
        checkpoint=str(checkpoint) if checkpoint else None,
        incomplete=[str(path) for path in incomplete],
        jobs=[_job(file) for file in sorted((run_dir / "slurm").glob("*.job"))],
    )


def _seconds_per_step(lines: list[dict[str, Any]]) -> float | None:
    """The usual time between steps, saves and evaluations included; a restart in between does not count."""
    times = [(b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in pairwise(lines) if b["step"] > a["step"]]
    return statistics.median(times) if times else None


def _checkpoints(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint whose files are all there at their full size, and the newer ones that are not like that."""
    incomplete = []
    numbered = {number: path for path in folder.glob("step-*") if (number := _number(path)) is not None}
    for _, path in sorted(numbered.items(), reverse=True):
        files = _json(path / "manifest.json").get("files")
        if files and all(_size(path / name) == expected["size"] for name, expected in files.items()):
            return path, incomplete
        incomplete.append(path)
    return None, incomplete


def _number(checkpoint: Path) -> int | None:
    match = re.fullmatch(r"step-(\d+)", checkpoint.name)
    return int(match[1]) if match else None


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _job(file: Path) -> dict[str, Any]:
    """What Slurm says of the job whose number a file holds; of an array, of its first task."""
    number, verb = file.read_text().strip(), file.stem
    known: dict[str, Any] = {"id": number, "verb": verb, "log": str(file.parent / f"{verb}-{number}*.log")}
    if shutil.which("scontrol") is None or not re.fullmatch(r"\d+(_\d+)?", number):
        return known
    try:
        command = ["scontrol", "--oneliner", "show", "job", number]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return known
    found = dict(re.findall(r"(\w+)=(\S*)", shown.stdout.partition("\n")[0])) if shown.returncode == 0 else {}
    empty = ("", "(null)", "None")
    return known | {name: found[field] for field, name in FIELDS.items() if found.get(field, "") not in empty}


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or half of one."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that is being written is left out."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
