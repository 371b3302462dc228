"""Where metrics go, from rank 0 alone: metrics.jsonl in the run directory, W&B and TensorBoard as the run asks."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from altpo_ds.config.files import unwritable, write_whole
from altpo_ds.config.schema import RunConfig

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"

Values = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


class Sink(Protocol):
    """One place that takes what a run has to show. None stands for a metric without a value."""

    def log(self, step: int, values: Values) -> None: ...

    def examples(self, step: int, rows: Rows) -> None:
        """Example answers after `step`."""
        ...

    def artifact(self, kind: str, path: Path) -> None:
        """A `report` or `checkpoint` that lies at `path`."""
        ...

    def close(self, status: int) -> None:
        """The run ends with this exit status."""
        ...


class Tracker:
    """All sinks of a run. A resumed run continues each of them after `step`."""

    def __init__(self, config: RunConfig, step: int) -> None:
        self.sinks: list[Sink] = [MetricsFile(Path(config.run_dir), step)]
        if config.tracking.tensorboard:
            self.sinks.append(TensorBoard(Path(config.run_dir), step))
        if config.tracking.wandb:
            from altpo_ds.train.wandb_run import WandbRun

            self.sinks.append(WandbRun(config))

    def log(self, step: int, values: Values) -> None:
        self._each(lambda sink: sink.log(step, values))

    def examples(self, step: int, rows: Rows) -> None:
        self._each(lambda sink: sink.examples(step, rows))

    def artifact(self, kind: str, path: Path) -> None:
        self._each(lambda sink: sink.artifact(kind, path))

    def close(self, status: int = 0) -> None:
        self._each(lambda sink: sink.close(status))

    def _each(self, action: Callable[[Sink], None]) -> None:
        """A sink that fails is left out from then on; only the run's own file has to be there."""
        for sink in list(self.sinks):
            try:
                action(sink)
            except Exception as error:  # W&B and TensorBoard have many of their own
                if isinstance(sink, MetricsFile):
                    raise
                reason = " ".join(str(error).split())[:200]
                log.warning("%s is lost (%s): the run goes on without it", type(sink).__name__, reason)
                self.sinks.remove(sink)


class MetricsFile:
    """Appends one JSON object a line, each there at once."""

    def __init__(self, folder: Path, step: int) -> None:
        forget_after(folder / METRICS, step)
        self._file = (folder / METRICS).open("a")

    def log(self, step: int, values: Values) -> None:
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self._file.write(json.dumps({"step": step, "time": time.time(), **known}) + "\n")
            self._file.flush()
        except OSError as error:
            raise unwritable(Path(self._file.name), error) from error

    def examples(self, step: int, rows: Rows) -> None:
        """They are in evaluation.json."""

    def artifact(self, kind: str, path: Path) -> None:
        """It lies in the run directory."""

    def close(self, status: int) -> None:
        self._file.close()


class TensorBoard:
    """Event files in `tensorboard/`; what an earlier start wrote after `step` is shown no more."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Values) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def examples(self, step: int, rows: Rows) -> None:
        for number, row in enumerate(rows):
            text = "\n\n".join(f"**{name}** {row.get(name)}" for name in ("question", "answer", "generation"))
            self._writer.add_text(f"examples/{number}", text, step)

    def artifact(self, kind: str, path: Path) -> None:
        """It lies beside the event files."""

    def close(self, status: int) -> None:
        self._writer.close()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a crash cut off is left out."""
    if not file.is_file():
        return []
    lines = []
    for line in file.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return [line for line in lines if "step" in line]


def forget_after(file: Path, step: int) -> None:
    """Drops the lines after `step`: the resumed run writes them again."""
    if not file.is_file():
        return
    kept = [line for line in read_metrics(file) if line["step"] <= step]
    write_whole(file, "".join(json.dumps(line) + "\n" for line in kept))
