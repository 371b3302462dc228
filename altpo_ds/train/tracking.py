"""Where metrics go: metrics.jsonl in the run directory and Weights & Biases, from rank 0 alone."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from altpo_ds.config.files import write_whole
from altpo_ds.config.schema import RunConfig

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
RUN_ID = "wandb_run_id"


class Tracker:
    """Appends to metrics.jsonl and logs to W&B, whose own settings (WANDB_MODE, ...) it leaves alone.

    A resumed run continues the file after `step` and the same W&B run. W&B out of reach is said once.
    """

    def __init__(self, config: RunConfig, step: int) -> None:
        self.folder = Path(config.run_dir)
        _forget_after(self.folder / METRICS, step)
        self._file = (self.folder / METRICS).open("a")
        self._wandb = _start_wandb(config, self.folder) if config.tracking.wandb else None

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """One line and one W&B step; None and non-finite values stay out of W&B."""
        self._file.write(json.dumps({"step": step, "time": time.time(), **values}) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log({**{k: v for k, v in values.items() if v is not None}, "step": step})

    def examples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Example answers as a W&B table."""
        if self._wandb is None or not rows:
            return
        import wandb

        columns: list[Any] = ["question", "answer", "generation", "rouge_l", "truth_ratio"]
        table = wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])
        self._wandb.log({"examples": table, "step": step})

    def close(self) -> None:
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


def _forget_after(file: Path, step: int) -> None:
    """Drops the lines after `step`: the resumed run writes them again."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            keep = json.loads(line)["step"] <= step
        except (json.JSONDecodeError, KeyError):
            continue  # cut off by a crash
        if keep:
            kept.append(line)
    write_whole(file, "".join(line + "\n" for line in kept))


def _start_wandb(config: RunConfig, folder: Path) -> Any:
    """The run's W&B run, new or continued; offline where there is no key or no network; None where W&B is off."""
    import wandb

    file = folder / RUN_ID
    run_id = file.read_text().strip() if file.is_file() else None
    tracking = config.tracking
    start = partial(
        wandb.init,
        project=tracking.project,
        name=tracking.name,
        group=tracking.group,
        job_type=tracking.job_type,
        tags=tracking.tags or None,
        id=run_id,
        resume="allow",
        dir=str(folder),
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(silent=True),
    )
    if "WANDB_MODE" not in os.environ and not wandb.api.api_key:
        log.warning("no W&B key here: logging offline; `wandb login` before a run, or `wandb sync` after it")
        run = start(mode="offline")
    else:
        try:
            run = start()
        except Exception as error:  # W&B wraps network, server and permission errors in types of its own
            reason = " ".join(str(error).split())[:200]
            log.warning("W&B cannot be reached (%s): logging offline; `wandb sync` later", reason)
            run = start(mode="offline")
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    if not file.is_file():
        write_whole(file, run.id)
    return run
