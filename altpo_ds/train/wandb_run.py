"""A run in Weights & Biases: its configuration, metrics and best values, and of the rest only what the run names."""

import logging
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from altpo_ds.config.errors import PREEMPTED, UserError
from altpo_ds.config.files import write_whole
from altpo_ds.config.schema import RunConfig
from altpo_ds.train.tracking import METRICS, Rows, Values, read_metrics

log = logging.getLogger(__name__)

RUN_ID = "wandb_run_id"
COLUMNS = ("step", "question", "answer", "generation", "rouge_l", "truth_ratio")
# The summary keeps the last value under a metric's own name, which a sweep's `metric` reads, and the best beside it.
BEST = {
    "eval/forget_quality": max,
    "eval/forget_quality_log10": max,
    "eval/model_utility": max,
    "eval/forget_rouge_l": min,
    "eval/forget_probability": min,
    "train/loss": min,
    "perf/step_s": min,
}


class WandbRun:
    """Logs to W&B, whose own settings (WANDB_MODE, ...) it leaves alone. A resumed run continues the same W&B run."""

    def __init__(self, config: RunConfig) -> None:
        self.upload = config.tracking.upload
        folder = Path(config.run_dir)
        self.run = _start(config, folder)
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")
        self._rows: list[Any] = []
        self._best: dict[str, float] = {}
        for values in read_metrics(folder / METRICS):  # of the run until it was resumed
            self._note_best(values)

    def log(self, step: int, values: Values) -> None:
        """One W&B step, with the training step as everything's x-axis; None stays out."""
        known = {name: value for name, value in values.items() if value is not None}
        self.run.log({**known, "step": step})
        self._note_best(known)

    def _note_best(self, values: Values) -> None:
        for name in BEST.keys() & values.keys():
            value = values[name]
            if value is not None and math.isfinite(value):
                self._best[name] = BEST[name](value, self._best.get(name, value))
                self.run.summary[f"best/{name}"] = self._best[name]

    def examples(self, step: int, rows: Rows) -> None:
        """Example answers of all evaluations so far as one table."""
        if "examples" not in self.upload or not rows:
            return
        import wandb

        self._rows += [[step, *(row.get(name) for name in COLUMNS[1:])] for row in rows]
        self.run.log({"examples": wandb.Table(columns=list(COLUMNS), data=self._rows), "step": step})

    def artifact(self, kind: str, path: Path) -> None:
        """The report as a file; a checkpoint as a reference, of which only names and sizes leave this machine."""
        if kind not in self.upload and f"{kind}s" not in self.upload:
            return
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self.run.id}", type=kind)
        if kind == "report":
            artifact.add_file(str(path))
        else:
            artifact.add_reference(path.resolve().as_uri(), checksum=False)
        self.run.log_artifact(artifact)

    def close(self, status: int) -> None:
        """Marks a preempted run as one; not a sweep's trial, which W&B would hand to another agent beside its job."""
        if status == PREEMPTED and self.run.sweep_id is None:
            self.run.mark_preempting()
        self.run.finish(exit_code=status)


def sync(run_dir: Path) -> None:
    """Sends what a run has logged offline to W&B, by `wandb sync`; its runs that were resumed arrive as one."""
    if not list(run_dir.glob("wandb/offline-run-*/*.wandb")):
        raise UserError(f"'{run_dir}' holds no run that W&B logged offline (wandb/offline-run-*): nothing to send")
    if subprocess.run([sys.executable, "-m", "wandb", "sync", str(run_dir / "wandb")]).returncode:
        raise UserError(f"`wandb sync {run_dir / 'wandb'}` failed; see its message above. Is `wandb login` done?")


def _start(config: RunConfig, folder: Path) -> Any:
    """The run's W&B run, new or continued; offline where there is no key or no network."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # W&B's own crash reports
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", "60")  # seconds for the last upload; `altpo-ds sync` sends the rest
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    file = folder / RUN_ID
    tracking = config.tracking
    start = partial(
        wandb.init,
        project=tracking.project,
        name=tracking.name,
        group=tracking.group,
        job_type=tracking.job_type or ("finetune" if config.objective.name == "sft" else "unlearn"),
        tags=tracking.tags or None,
        id=file.read_text().strip() if file.is_file() else None,
        resume="allow",
        dir=str(folder),
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(silent=True, **_private("environment" in tracking.upload)),
    )
    if "WANDB_MODE" not in os.environ and not wandb.login(prompt=False, verify=False):
        log.warning("no W&B key here: logging offline; `wandb login` before a run, or `altpo-ds sync` after it")
        run = start(mode="offline")
    else:
        try:
            run = start()
        except Exception as error:  # W&B wraps network, server and permission errors in types of its own
            reason = " ".join(str(error).split())[:200]
            log.warning("W&B cannot be reached (%s): logging offline; `altpo-ds sync` later", reason)
            run = start(mode="offline")
    if not file.is_file():
        write_whole(file, run.id)
    return run


def _private(environment: bool) -> dict[str, Any]:
    """W&B's settings that keep it from sending what nobody asked for: code never, the machine's state unless named."""
    code: dict[str, Any] = {"save_code": False, "disable_code": True, "disable_job_creation": True}
    if environment:
        return code
    return code | {
        "console": "off",
        "disable_git": True,
        "host": "",
        "program": "altpo-ds",
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "x_save_requirements": False,
    }
