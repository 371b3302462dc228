"""What a person sees of a run: progress on the terminal, metrics in the tracker, evaluations in files."""

import contextlib
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from altpo_ds.config.errors import FAILED, Stopped
from altpo_ds.config.schema import RunConfig
from altpo_ds.engine.distributed import World
from altpo_ds.engine.zero import PolicyEngine
from altpo_ds.evaluate.report import write_report
from altpo_ds.evaluate.run import Evaluator, write_evaluation
from altpo_ds.evaluate.runs import read_run
from altpo_ds.train.tracking import Tracker


class Monitor:
    """Reports on rank 0 alone; only `evaluate` is for all ranks. A bar on a terminal, lines elsewhere."""

    def __init__(self, config: RunConfig, evaluator: Evaluator | None, world: World, steps: int) -> None:
        self.config, self.evaluator, self.world, self.steps = config, evaluator, world, steps
        self._tracker: Tracker | None = None
        self._progress: Progress | None = None
        self._started, self._first = time.monotonic(), 0

    @contextlib.contextmanager
    def running(self, step: int) -> Iterator[None]:
        """Opens tracker and progress for a run that begins after `step`."""
        if not self.world.is_main:
            yield
            return
        self._tracker = Tracker(self.config, step)
        self._started, self._first = time.monotonic(), step
        text = TextColumn("{task.fields[text]}")
        columns = (BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn(), TimeRemainingColumn())
        with contextlib.ExitStack() as stack:
            stack.push(self._close)
            if sys.stderr.isatty():
                self._progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
                self._progress.add_task("train", total=self.steps, completed=step, text="")
            yield

    def _close(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        """Closes the tracker with the status that the run ends with."""
        assert self._tracker is not None
        status = error.status if isinstance(error, Stopped) else FAILED
        self._tracker.close(0 if error is None else status)

    def finished(self, checkpoint: Path) -> None:
        """Shows the last checkpoint to the tracker, and the report where the run wants it uploaded."""
        if self._tracker is None:
            return
        self._tracker.artifact("checkpoint", checkpoint)
        run_dir = Path(self.config.run_dir)
        if "report" in self.config.tracking.upload and (run_dir / "evaluation.json").is_file():
            write_report(run_dir / "report.html", [read_run(run_dir)])
            self._tracker.artifact("report", run_dir / "report.html")

    def report(self, step: int, metrics: dict[str, Any]) -> None:
        """The metrics of a training step."""
        if self._tracker is None:
            return
        self._tracker.log(step, metrics)
        text = f"loss {metrics['train/loss']:.4f}  {metrics['perf/unique_tokens_per_s']:.0f} tokens/s"
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, text=text)
        else:
            rate = (time.monotonic() - self._started) / max(1, step - self._first)
            eta = timedelta(seconds=round(rate * (self.steps - step)))
            print(f"step {step}/{self.steps}  {text}  ETA {eta}", file=sys.stderr, flush=True)

    def evaluate(self, step: int, policy: PolicyEngine) -> None:
        """Runs the suites on all ranks. Step 0 is the model before, the last one the model after."""
        if self.evaluator is None:
            return
        evaluation = self.evaluator(policy, f"{self.config.run_dir} step {step}")
        if self._tracker is None:
            return
        metrics = {f"eval/{name}": value for name, value in evaluation["metrics"].items()}
        self._tracker.log(step, metrics)
        forget = evaluation["per_example"].get("forget", [])
        self._tracker.examples(step, forget[: self.config.tracking.examples])
        name = "evaluation_before.json" if step == 0 else "evaluation.json"
        write_evaluation(Path(self.config.run_dir) / name, evaluation)
        shown = ", ".join(
            f"{name} {metrics[f'eval/{name}']:.3g}"
            for name in ("forget_quality", "model_utility", "forget_rouge_l")
            if metrics.get(f"eval/{name}") is not None
        )
        (self._progress.console.print if self._progress else _print)(f"evaluation at step {step}: {shown}")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
