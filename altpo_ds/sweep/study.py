"""The trials of a sweep in one file that its workers share: what is done, what runs, what comes next."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import make_folder
from altpo_ds.sweep.file import Metric, Sweep, argument
from altpo_ds.sweep.space import distribution, grid, rounded

JOURNAL = "sweep.journal"
DEFINITION = "definition"  # attribute of the study: what its trials have in common
METRICS = "metrics"  # attribute of a trial: the last values of what it was evaluated on
BOTH = (
    Metric(name="eval/forget_quality_log10", goal="maximize"),
    Metric(name="eval/model_utility", goal="maximize"),
)


def objectives(sweep: Sweep) -> list[Metric]:
    """What the sweep searches for: its metric, or forget quality and model utility."""
    return [sweep.file.metric] if sweep.file.metric else list(BOTH)


def trials(sweep: Sweep) -> int:
    """Trials of the whole sweep. UserError where it has no end."""
    if sweep.file.method == "grid":
        return len(grid(sweep.path, sweep.file.parameters)[: sweep.file.run_cap])
    if sweep.file.run_cap is None:
        raise UserError(f"{sweep.path}: method {sweep.file.method} has no end: set run_cap, or give --count")
    return sweep.file.run_cap


@dataclass(frozen=True)
class Job:
    """A trial for this worker to run; `lock` is held while any of its processes lives."""

    trial: Trial
    name: str
    arguments: list[str]
    lock: int
    resumed: bool


class Study:
    """Optuna's study of a sweep. Any number of workers, on machines that share the folder, may work on it."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.objectives = objectives(sweep)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        make_folder(sweep.folder)
        self.storage = JournalStorage(JournalFileBackend(str(sweep.folder / JOURNAL)))
        self.distributions = {name: distribution(p) for name, p in sweep.file.parameters.items()}
        with self._locked():
            self.study = self._open()

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def name(self, number: int) -> str:
        """Name of a trial, of its run directory and of its W&B run."""
        return f"{self.study.study_name}-{number:03d}"

    def next(self) -> Job | None:
        """A trial whose worker is gone, or a new one; None where nothing is left to start."""
        with self._locked():
            for frozen in self.trials:
                if frozen.state == TrialState.RUNNING and (lock := self._claim(self.name(frozen.number))) is not None:
                    if frozen.params.keys() == self.distributions.keys():
                        return self._job(Trial(self.study, frozen._trial_id), lock, resumed=True)
                    self._draw_again(frozen)
                    os.close(lock)
            waiting = any(trial.state == TrialState.WAITING for trial in self.trials)
            if not waiting and (self.sweep.file.method == "grid" or len(self.trials) >= self.cap):
                return None
            self.study.sampler = self._sampler()
            trial = self.study.ask(self.distributions)
            lock = self._claim(self.name(trial.number))
            assert lock is not None, "nobody else knows of a trial that is asked for under the lock"
            return self._job(trial, lock, resumed=False)

    @property
    def cap(self) -> int:
        """Trials at most; a sweep without a cap is bounded by its workers' counts."""
        return self.sweep.file.run_cap or 2**31

    def finish(self, job: Job, metrics: dict[str, float], failure: str | None) -> str | None:
        """Tells the result: the objectives' values, or why there are none, which it returns."""
        job.trial.set_user_attr(METRICS, metrics)
        values = [metrics.get(metric.name) for metric in self.objectives]
        missing = [metric.name for metric, value in zip(self.objectives, values, strict=True) if value is None]
        if failure is None and missing:
            failure = f"it ended without {', '.join(missing)}; its metrics: {', '.join(metrics) or 'none'}"
        if failure is None:
            self.study.tell(job.trial, [float(value) for value in values if value is not None])
        else:
            job.trial.set_user_attr("failure", failure)
            self.study.tell(job.trial, state=TrialState.FAIL)
        os.close(job.lock)
        return failure

    def prune(self, job: Job, metrics: dict[str, float]) -> None:
        """Ends a trial that fell behind."""
        job.trial.set_user_attr(METRICS, metrics)
        self.study.tell(job.trial, state=TrialState.PRUNED)
        os.close(job.lock)

    def _draw_again(self, frozen: FrozenTrial) -> None:
        """Gives up a trial whose worker died while it drew the parameters; a grid's point waits anew."""
        self.study.tell(frozen.number, state=TrialState.FAIL)
        if point := frozen.system_attrs.get("fixed_params"):
            self.study.enqueue_trial(point)

    def _open(self) -> optuna.Study:
        """The folder's study, made by the first worker. Raises UserError where it is another sweep's."""
        definition = self.sweep.file.model_dump(mode="json", include={"method", "metric", "parameters", "command"})
        names = optuna.get_all_study_names(self.storage)
        if names:
            study = optuna.load_study(study_name=names[0], storage=self.storage, pruner=self._pruner())
            known = study.user_attrs.get(DEFINITION)
            if known is not None and known != definition:
                changed = ", ".join(key for key in definition if known.get(key) != definition[key])
                raise UserError(
                    f"{self.sweep.path}: {changed} changed since the sweep in '{self.sweep.folder}' was begun; "
                    "restore it, or give the trials another run_dir"
                )
        else:
            study = optuna.create_study(
                storage=self.storage,
                study_name=secrets.token_hex(4),
                directions=[metric.goal for metric in self.objectives],
                pruner=self._pruner(),
            )
        if DEFINITION not in study.user_attrs:  # new, or its worker died before it was complete
            points = grid(self.sweep.path, self.sweep.file.parameters) if self.sweep.file.method == "grid" else []
            for point in points[len(study.trials) : self.sweep.file.run_cap]:
                study.enqueue_trial(point)
            study.set_user_attr(DEFINITION, definition)
        return study

    def _sampler(self) -> BaseSampler:
        """A seed for each trial: workers draw differently, and a sweep of one worker repeats itself."""
        seed = self.sweep.run.seed + len(self.trials)
        if self.sweep.file.method == "bayes":
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return RandomSampler(seed=seed)

    def _pruner(self) -> BasePruner:
        early = self.sweep.file.early_terminate
        return MedianPruner(n_warmup_steps=early.first) if early else NopPruner()

    def _job(self, trial: Trial, lock: int, resumed: bool) -> Job:
        parameters, values = self.sweep.file.parameters, trial.params
        arguments = [argument(name, rounded(parameters[name], values[name])) for name in parameters]
        return Job(trial, self.name(trial.number), arguments, lock, resumed)

    def _claim(self, name: str) -> int | None:
        """An open file that is locked until the last process that has it open is gone; None where one lives."""
        descriptor = os.open(self.sweep.folder / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with exclusive(self.sweep.folder / ".sweep.lock"):
            yield


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """One process at a time, on all machines that share the file; it is let go when the process ends."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def parameters_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's parameters, those of a trial that waits for its start too."""
    return trial.params or trial.system_attrs.get("fixed_params", {})
