"""A worker of an offline sweep: one trial after the other, each a run in processes of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from altpo_ds.config.errors import PREEMPTED, Stopped, UserError
from altpo_ds.engine import preemption
from altpo_ds.sweep.file import RUN_ID, VERB, Sweep, argument
from altpo_ds.sweep.study import Job, Study, exclusive, objectives, trials
from altpo_ds.train.tracking import METRICS, read_metrics

POLL = 0.5  # seconds between two looks at a running trial
PATIENCE = 120  # seconds for a trial to save and leave once it is told to
FAILURES = 3  # trials that fail one after the other before the worker gives up
K = "data.alternates_per_question"


def work(sweep: Sweep, ranks: int, count: int | None, console: Console) -> Study:
    """Runs trials until none is left to start, or `count` of them.

    Raises Stopped when a signal asks for it, and UserError for a sweep that cannot go on.
    """
    if count is None:
        trials(sweep)
    if ranks > 1 and "${interpreter}" not in sweep.file.command:
        raise UserError(f"--ranks {ranks}: {sweep.path}: command: has no ${{interpreter}}; its launcher sets the ranks")
    _check_evaluation(sweep)
    study = Study(sweep)
    shared = _alternates(sweep, ranks, console)
    preemption.defer()
    done = failed = 0
    while (count is None or done < count) and (job := study.next()) is not None:
        words = ", ".join(word.removeprefix("--") for word in job.arguments)
        console.print(f"{job.name}: {'continued: ' if job.resumed else ''}{words}", highlight=False)
        failure = _run(study, job, [*job.arguments, *shared], ranks, console)
        done, failed = done + 1, failed + 1 if failure else 0
        if failed == FAILURES:
            raise UserError(f"{failed} trials failed one after the other, the last one with: {failure}")
    return study


def _check_evaluation(sweep: Sweep) -> None:
    """Raises UserError where no trial would measure what the sweep searches for."""
    names = [metric.name for metric in objectives(sweep)]
    if not sweep.run.train.evaluate_every and any(name.startswith("eval/") for name in names):
        needed = "--train.evaluate_every=N, which evaluates a trial at its last step, too"
        raise UserError(f"{sweep.path}: no trial would have {', '.join(names)}: add {needed}, to command")
    if sweep.run.evaluate.retain_reference is None and any("forget_quality" in name for name in names):
        needed = "--evaluate.retain_reference=FILE, the retain model's evaluation.json"
        raise UserError(f"{sweep.path}: no trial would have {', '.join(names)}: add {needed}, to command")


def _run(study: Study, job: Job, arguments: list[str], ranks: int, console: Console) -> str | None:
    """A trial from start to end; why it failed, or None."""
    sweep, log = study.sweep, study.sweep.folder / f"{job.name}.log"
    process = _start(sweep.file.words(arguments, ranks), job, log)
    watch = _watch(study, job) if sweep.file.early_terminate else iter(())
    try:
        pruned = _wait(process, watch)
    except BaseException:
        _stop(process)
        raise
    if process.returncode == PREEMPTED and not pruned:
        raise _stopped(PREEMPTED)
    metrics = last_values(sweep.run_dir(job.name))
    if pruned:
        study.prune(job, metrics)
        console.print(f"{job.name}: pruned", highlight=False)
        return None
    failure = _failure(log, process.returncode) if process.returncode else None
    failure = study.finish(job, metrics, failure)
    console.print(f"{job.name}: {'failed: ' + failure if failure else 'done'}", highlight=False, markup=False)
    return failure


def _start(words: list[str], job: Job, log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, so that a signal to the worker reaches it once; it holds the trial's lock, too."""
    environment = os.environ | {RUN_ID: job.name}
    with log.open("ab") as output:
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[job.lock],
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"command: {words[0]}: {error.strerror}") from error


def _wait(process: subprocess.Popen[bytes], watch: Iterator[bool]) -> bool:
    """Waits for the end; whether it came because the trial fell behind. Raises Stopped when the worker is signalled."""
    while process.poll() is None:
        if status := preemption.asked():
            raise _stopped(status)
        if next(watch, False):
            _stop(process)
            return True
        time.sleep(POLL)
    return False


def _watch(study: Study, job: Job) -> Iterator[bool]:
    """At each look, whether a trial's values of the metric so far call for its end. A value counts as an iteration."""
    name, file = study.objectives[0].name, study.sweep.run_dir(job.name) / METRICS
    seen, size = len(study.trials[job.trial.number].intermediate_values), 0
    while True:
        before, size = size, file.stat().st_size if file.is_file() else 0
        values = [line[name] for line in read_metrics(file) if line.get(name) is not None] if size != before else []
        for number in range(seen, len(values)):
            job.trial.report(values[number], number + 1)
        seen = max(seen, len(values))
        yield bool(values) and job.trial.should_prune()


def _stopped(status: int) -> Stopped:
    return Stopped("the sweep stops; its trial goes on when a worker starts again", status)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the trial's processes to save and leave, and kills them when they do not."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_values(run_dir: Path) -> dict[str, float]:
    """The last value of each metric of a run."""
    merged: dict[str, float] = {}
    for line in read_metrics(run_dir / METRICS):
        merged |= {name: value for name, value in line.items() if "/" in name and value is not None}
    return merged


def _failure(log: Path, status: int) -> str:
    """What a trial said last: its error line, or the last line of its log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line.partition("error: ")[2] for line in lines if line.startswith("altpo-ds: error: ")]
    return f"{(said or lines or ['nothing'])[-1]} (status {status}, see {log})"


def _alternates(sweep: Sweep, ranks: int, console: Console) -> list[str]:
    """Has the alternates written once, as many as the trials use at most; what the trials' command needs for them."""
    source = sweep.run.data.alternates
    if source is not None and not (isinstance(source.path, str) and source.path.endswith(".jsonl")):
        return []
    out = Path(str(source.path)) if source else sweep.folder / "alternates.jsonl"
    shared = [] if source else [argument("data.alternates.path", str(out))]
    parameter = sweep.file.parameters.get(K)
    most = max(map(int, parameter.points() or parameter.span)) if parameter else sweep.run.data.alternates_per_question
    with exclusive(sweep.folder / ".alternates.lock"):
        if out.is_file():
            return shared
        options = {"alternates.count": most, "alternates.out": str(out), "run_dir": str(sweep.folder / "alternates")}
        words = sweep.file.words([argument(name, value) for name, value in options.items()], ranks)
        words[words.index(VERB)] = "alternates"
        console.print(f"writing {most} alternates for each question: {out}", highlight=False)
        if subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
            raise UserError("the alternates could not be written; see the message above")
    return shared
