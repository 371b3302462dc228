"""The suite `harness`: tasks of lm-evaluation-harness, through its Python API."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import Any

from altpo_ds.config.errors import UserError
from altpo_ds.config.evaluation import HarnessConfig
from altpo_ds.engine.copies import fits, whole_copy
from altpo_ds.engine.distributed import gather_objects, together
from altpo_ds.evaluate.context import Context
from altpo_ds.evaluate.result import Result

ERROR = "_stderr"


def harness(context: Context) -> Result:
    """Every metric of every task, named `harness_TASK_METRIC`, with an interval of 1.96 standard errors where the
    task has one. Each rank takes some of the tasks, with a whole copy of the model.
    """
    settings, result = context.settings.harness, Result()
    with together():
        _check(settings)
    if not all(gather_objects(fits(context.engine.scorer.model, context.world))):
        for task in settings.tasks:
            result.lack(f"harness_{task}", "needs a whole copy of the model on each rank, which does not fit")
        return result
    mine = settings.tasks[context.world.rank :: context.world.size]
    context.engine.scorer.use_own_attention()
    copy = whole_copy(context.engine.scorer.model, context.world.device)  # all ranks, for the copy is gathered
    with together():
        found = _run(copy, context, mine)
    for part in gather_objects(found):
        for task, values in part.items():
            _take(result, task, values)
    result.settings["harness"] = settings.model_dump(mode="json")
    return result


def _check(settings: HarnessConfig) -> None:
    """UserError where the harness is not installed or knows no such task."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("the suite harness needs lm-evaluation-harness: pip install 'altpo_ds[harness]'") from error
    with _quiet():
        known = set(TaskManager(include_path=settings.include_path).all_tasks)
    for task in settings.tasks:
        if task not in known:
            raise UserError(
                f"evaluate.harness.tasks = {task}: no such task; `lm_eval --tasks list` lists them, and "
                "evaluate.harness.include_path adds a folder of your own"
            )


def _run(model: Any, context: Context, tasks: list[str]) -> dict[str, dict[str, Any]]:
    if not tasks:
        return {}
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    settings = context.settings.harness
    with _quiet():
        make: Any = HFLM  # its decorator hides the arguments
        wrapped = make(pretrained=model, tokenizer=context.chat.tokenizer, batch_size=settings.batch_size)
        try:
            found = simple_evaluate(
                model=wrapped,
                tasks=list(tasks),
                num_fewshot=settings.few_shot,
                limit=settings.limit,
                task_manager=TaskManager(include_path=settings.include_path),
                log_samples=False,
                bootstrap_iters=1000,
            )
        except Exception as error:  # a task's data may fail to load in many ways
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"evaluate.harness.tasks = {tasks}: {type(error).__name__}: {reason}") from error
    documents: dict[str, Any] = dict(found or {})
    return {**documents["results"], **(documents.get("groups") or {})}


def _take(result: Result, task: str, values: dict[str, Any]) -> None:
    """The harness writes `metric,filter` and `metric_stderr,filter`."""
    numbers = {key: value for key, value in values.items() if isinstance(value, float | int) and "," in key}
    for key, value in numbers.items():
        metric, filtered = key.split(",", 1)
        if metric.endswith(ERROR):
            continue
        name = f"harness_{task}_{metric}" + ("" if filtered == "none" else f"_{filtered}")
        result.metrics[name] = float(value)
        error = numbers.get(f"{metric}{ERROR},{filtered}")
        if error is not None:
            result.intervals[name] = (value - 1.96 * error, value + 1.96 * error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness prints progress on standard output, and hands results to local rank 0 alone."""
    before, rank = logging.root.manager.disable, os.environ.get("LOCAL_RANK")
    logging.disable(logging.WARNING)
    os.environ["LOCAL_RANK"] = "0"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        if rank is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = rank
