"""The command `submit`: a run as a Slurm job, its batch script written into the run directory."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import make_folder, project_folder, write_whole
from altpo_ds.config.load import dump_config
from altpo_ds.config.schema import RunConfig
from altpo_ds.preflight import preflight

GRACE = 120  # seconds before the time limit at which the ranks are told to save
TIME = r"\d+(-\d+(:\d+){0,2})?|\d+(:\d+){1,2}"


@dataclass(frozen=True)
class Job:
    """What a run asks of Slurm: a rank for each GPU, or `ranks_per_node` where there are none."""

    nodes: str = "1"  # or the least and the most, 2-4: a run goes on with fewer when a node is lost
    gpus_per_node: int = 0
    ranks_per_node: int = 1
    time: str = "12:00:00"
    name: str | None = None
    options: Sequence[str] = ()  # further options of sbatch, such as --partition=gpu


def submit(config: RunConfig, verb: str, job: Job, arguments: Sequence[str], *, dry_run: bool) -> list[str]:
    """Writes run and script into `run_dir`/slurm, submits the script unless `dry_run`, and returns what to tell.

    `arguments` are the verb's own options. Raises UserError where a file is absent, a value cannot be written, or Slurm
    refuses the job.
    """
    preflight(config, verb)
    folder = Path(config.run_dir).absolute() / "slurm"
    make_folder(folder)
    run, script = folder / f"{verb}.yaml", folder / f"{verb}.sbatch"
    text = batch_script(config, verb, job, [str(run), *arguments])
    write_whole(run, dump_config(config))
    write_whole(script, text)
    if dry_run:
        return [text.rstrip(), f"written to {script}, and not submitted"]
    number = sbatch([str(script)])
    write_whole(folder / f"{verb}.job", number + "\n")
    return [
        f"job {number}: {script}",
        f"logs: {folder}/{verb}-{number}*.log",
        f"how it goes: altpo-ds status {shlex.quote(config.run_dir)}",
    ]


def batch_script(config: RunConfig, verb: str, job: Job, arguments: Sequence[str]) -> str:
    """The script: options that sbatch reads, then the same shell functions that slurm/*.sbatch use."""
    array = verb == "alternates" and config.alternates.shards > 1
    arguments = [shlex.quote(_line(argument)) for argument in arguments]
    if array:
        arguments.append('--alternates.shard="$SLURM_ARRAY_TASK_ID"')
    headers = "".join(f"#SBATCH {_sbatch_word(option)}\n" for option in _options(config, verb, job, array))
    return (
        f"#!/usr/bin/env bash\n"
        f"# Written by `altpo-ds submit`; sbatch takes it again.\n{headers}"
        f"set -euo pipefail\n"
        f"export RANKS_PER_NODE={job.gpus_per_node or job.ranks_per_node}\n"
        f"cd {shlex.quote(_line(str(Path.cwd())))}\n"
        f"source {shlex.quote(str(project_folder('slurm') / 'job.sh'))}\n"
        f"job {' '.join([verb, *arguments])}\n"
    )


def _options(config: RunConfig, verb: str, job: Job, array: bool) -> list[str]:
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)?", job.nodes):
        raise UserError(f"--nodes {job.nodes}: write a number, or the least and the most, as in 2-4")
    if not re.fullmatch(TIME, job.time):
        raise UserError(f"--time {job.time}: write hours:minutes:seconds, days-hours, or minutes")
    run_dir = Path(config.run_dir).absolute()
    # sbatch replaces %j by the job's number; a % of the path itself is written twice
    log = str(run_dir / "slurm").replace("%", "%%") + f"/{verb}-{'%A_%a' if array else '%j'}.log"
    gpus = job.gpus_per_node
    return [
        f"--job-name={job.name or f'{verb} {run_dir.name}'}",
        f"--nodes={job.nodes}",
        # not --ntasks-per-node, with which Slurm gives the least of the nodes: the tasks are srun's
        f"--mincpus={gpus or job.ranks_per_node}",
        *([f"--gpus-per-node={gpus}"] if gpus else []),
        *([f"--array=0-{config.alternates.shards - 1}"] if array else []),
        f"--time={job.time}",
        f"--output={log}",
        "--requeue",
        "--open-mode=append",
        f"--signal=USR1@{GRACE}",
        *job.options,
    ]


def _sbatch_word(option: str) -> str:
    """An option as sbatch reads it from a script: in quotes, within which nothing is expanded."""
    name, given, value = _line(option).partition("=")
    if not re.fullmatch(r"--[a-z][a-z-]*", name):
        raise UserError(f"option {option!r}: not one of sbatch; write --name=value")
    return name + (f"={shlex.quote(value)}" if given else "")


def _line(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise UserError(f"{text!r}: holds a line break or another control character, which no batch script can carry")
    return text


def sbatch(words: Sequence[str]) -> str:
    """The number of the job that sbatch makes of its options, a script and the script's arguments."""
    if shutil.which("sbatch") is None:
        raise UserError("sbatch: not found; submit from a machine of the cluster, or try --dry-run")
    # a batch script runs as a copy, which cannot tell where its neighbours lie
    env = os.environ | {"JOB_FOLDER": str(project_folder("slurm"))}
    done = subprocess.run(["sbatch", "--parsable", *words], capture_output=True, text=True, timeout=120, env=env)
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise UserError(f"sbatch refused the job: {reason}")
    return done.stdout.strip().partition(";")[0]
