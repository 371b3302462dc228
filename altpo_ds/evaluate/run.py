"""The command `evaluate`: a model through the run's suites on all ranks, written as evaluation.json."""

import json
from pathlib import Path
from typing import Any

from altpo_ds.config.files import write_whole
from altpo_ds.config.require import require_evaluate
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.engine import checkpoints
from altpo_ds.engine.build import reference_engine
from altpo_ds.engine.distributed import World, broadcast_object, start, together
from altpo_ds.engine.export import export
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.engine.zero import PolicyEngine, ReferenceEngine
from altpo_ds.evaluate.context import Context
from altpo_ds.evaluate.inputs import read_examples
from altpo_ds.evaluate.intervals import tofu_intervals
from altpo_ds.evaluate.runs import read_evaluation
from altpo_ds.evaluate.suites import run_suites


class Evaluator:
    """The suites of a run, their rows read and tokenized once; called with an engine, as often as wanted."""

    def __init__(self, config: RunConfig, chat: ChatTokenizer, world: World) -> None:
        self.config, self.chat, self.world = config, chat, world
        self._retain: ReferenceEngine | None = None
        reference = config.evaluate.retain_reference
        with together():
            self.examples = read_examples(config.evaluate, chat)
            self.reference = read_evaluation(Path(reference)) if reference is not None else None

    def retain_engine(self) -> ReferenceEngine:
        """The retain model's, loaded when it is first asked for."""
        if self._retain is None:
            assert self.config.evaluate.retain_model is not None
            self._retain = reference_engine(self.config, self.config.evaluate.retain_model, self.world)
        return self._retain

    def __call__(self, engine: PolicyEngine | ReferenceEngine, model: str) -> dict[str, Any]:
        """The contents of evaluation.json, the same on every rank. All ranks call it together."""
        evaluate = self.config.evaluate
        training = engine.engine.training
        engine.engine.eval()
        result = run_suites(
            Context(
                self.config, self.chat, self.world, engine, model, self.examples, self.reference, self.retain_engine
            )
        )
        engine.engine.train(training)
        result.intervals |= tofu_intervals(result.per_example, evaluate.dialect)
        rows = {split: len(examples) for split, examples in result.per_example.items()}
        result.settings |= {"dialect": evaluate.dialect, "rows": rows, "suite": list(evaluate.suite), "model": model}
        result.settings |= {"max_length": evaluate.max_length, "seed": self.config.seed}
        return result.document()


def write_evaluation(file: Path, evaluation: dict[str, Any]) -> None:
    """evaluation.json; a reader never sees half of it."""
    write_whole(file, json.dumps(evaluation, indent=1, ensure_ascii=False))


def evaluate(config: RunConfig, model: str | None = None, out: str | None = None) -> dict[str, Any]:
    """Evaluates `model` (a directory or hub name) on all ranks; none: what the run has trained so far, exported to
    `exported/step-N` of the run directory, or `model.path` where there is no checkpoint.

    Writes `out` (none: evaluation.json in the run directory) and returns its contents.
    """
    require_evaluate(config)
    world = start(config.engine.timeout)
    with together():
        trained = _export_newest(Path(config.run_dir)) if model is None and world.is_main else None
    path = model or broadcast_object(trained) or config.model.path
    with together():
        chat = ChatTokenizer(load_tokenizer(path, config.model.trust_remote_code), config.data.system_prompt)
    evaluator = Evaluator(config, chat, world)
    evaluation = evaluator(reference_engine(config, path, world), path)
    if world.is_main:
        write_evaluation(Path(out) if out else Path(config.run_dir) / "evaluation.json", evaluation)
    return evaluation


def _export_newest(run_dir: Path) -> str | None:
    """The newest checkpoint as a model directory, made when it is not there yet; None without a checkpoint."""
    found = checkpoints.complete(run_dir / "checkpoints")
    if not found:
        return None
    to = run_dir / "exported" / found[-1].name
    if not to.is_dir():
        export(found[-1], to)
    return str(to)
