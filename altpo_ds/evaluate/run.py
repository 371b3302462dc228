"""The command `evaluate`: models through the run's suites on all ranks, each written as evaluation.json."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from altpo_ds.config.errors import UserError
from altpo_ds.config.files import write_whole
from altpo_ds.config.require import require_evaluate
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.engine import checkpoints
from altpo_ds.engine.build import reference_engine
from altpo_ds.engine.distributed import World, broadcast_object, start, together
from altpo_ds.engine.export import export
from altpo_ds.engine.models import load_tokenizer, resolve_dtype
from altpo_ds.engine.rng import rng_state, set_rng_state
from altpo_ds.engine.zero import PolicyEngine, ReferenceEngine
from altpo_ds.evaluate import cache
from altpo_ds.evaluate.context import Context
from altpo_ds.evaluate.inputs import read_examples
from altpo_ds.evaluate.intervals import tofu_intervals
from altpo_ds.evaluate.runs import distinct_names, read_evaluation
from altpo_ds.evaluate.served import Served, open_served
from altpo_ds.evaluate.suites import run_suites

EVALUATION = "evaluation.json"


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

    def close(self) -> None:
        """Lets go of the retain model."""
        if self._retain is not None:
            self._retain.engine.destroy()

    def __call__(
        self, engine: PolicyEngine | ReferenceEngine, model: str, served: Served | None = None
    ) -> dict[str, Any]:
        """The contents of evaluation.json, the same on every rank; answers come from `served` where it is given.

        All ranks call it together. A training that it interrupts goes on as if it had not been there.
        """
        evaluate = self.config.evaluate
        with _undisturbed(engine):
            parts = (self.examples, self.reference, self.retain_engine, served)
            result = run_suites(Context(self.config, self.chat, self.world, engine, model, *parts))
        result.intervals |= tofu_intervals(result.per_example, evaluate.dialect)
        rows = {split: len(examples) for split, examples in result.per_example.items()}
        result.settings |= {"dialect": evaluate.dialect, "rows": rows, "suite": list(evaluate.suite), "model": model}
        result.settings |= {"max_length": evaluate.max_length, "seed": self.config.seed}
        return result.document()


def write_evaluation(file: Path, evaluation: dict[str, Any]) -> None:
    """evaluation.json; a reader never sees half of it."""
    write_whole(file, json.dumps(evaluation, indent=1, ensure_ascii=False))


def evaluate(config: RunConfig, model: str | None = None, out: str | None = None) -> dict[str, Any]:
    """Evaluates `model` (a model directory, a run directory or a hub name) on all ranks; none: what the run has
    trained so far, exported to `exported/step-N` of the run directory, or `model.path` where there is no checkpoint.

    Writes `out` (none: evaluation.json in the run directory) and returns its contents.
    """
    (evaluation,) = evaluate_models(config, [] if model is None else [model], out).values()
    return evaluation


def evaluate_models(config: RunConfig, models: Sequence[str], out: str | None = None) -> dict[str, dict[str, Any]]:
    """Evaluates each model as `evaluate` does and returns the evaluations by the models' names.

    One model's is written to `out` or evaluation.json of the run directory. Of several, that of a run directory
    goes into it, and that of another model into evaluations/NAME.json of this run's directory. What was evaluated
    before is taken from the cache.
    """
    require_evaluate(config)
    world = start(config.engine.timeout)
    with together():
        targets = _targets(config, models, out) if world.is_main else []
    evaluations = {}
    for target in broadcast_object(targets):
        evaluations[target.name] = evaluation = _evaluate(config, target.path, world)
        with together():
            if world.is_main:
                write_evaluation(target.file, evaluation)
    return evaluations


class _Target(NamedTuple):
    """A model to evaluate, and the file for the result."""

    name: str
    path: str
    file: Path


def _targets(config: RunConfig, models: Sequence[str], out: str | None) -> list[_Target]:
    """On rank 0: run directories become their newest checkpoint, exported."""
    own = Path(out or Path(config.run_dir) / EVALUATION)
    if len(models) < 2:
        run_dir = Path(models[0] if models else config.run_dir)
        trained = _export_newest(run_dir)
        if trained and models and out is None:
            own = run_dir / EVALUATION
        return [_Target(run_dir.name, trained or (models[0] if models else config.model.path), own)]
    if out is not None:
        raise UserError(f"--out {out}: names one file, but there are {len(models)} models; leave it out")
    if config.evaluate.backend == "openai":
        raise UserError(f"evaluate.backend = openai: a server answers for one model, not for {len(models)}")
    targets = []
    for model, name in zip(models, distinct_names([Path(model) for model in models]), strict=True):
        trained = _export_newest(Path(model))
        apart = Path(config.run_dir) / "evaluations" / f"{name.replace('/', '-')}.json"
        targets.append(_Target(name, trained or model, Path(model) / EVALUATION if trained else apart))
    return targets


def _evaluate(config: RunConfig, path: str, world: World) -> dict[str, Any]:
    """From the cache, or by an engine of its own that is gone afterwards."""
    with together():
        chat = ChatTokenizer(load_tokenizer(path, config.model.trust_remote_code), config.data.system_prompt)
    evaluator = Evaluator(config, chat, world)
    file, known = None, None
    with together():
        if world.is_main:
            dtype = str(resolve_dtype(config.model.dtype, world.device))
            file = cache.evaluation_file(config, path, dtype)
            known = cache.find(file)
    known = broadcast_object(known)
    if known is not None:
        if world.is_main:
            print(f"{path}: evaluated before, on the same rows and settings: no forward pass ({file})", file=sys.stderr)
        return known | {"settings": known["settings"] | {"model": path}}
    engine = reference_engine(config, path, world)
    with open_served(config, path, chat, world) as served:
        evaluation = evaluator(engine, path, served)
    engine.engine.destroy()
    evaluator.close()
    if file is not None:
        cache.keep(file, evaluation)
    return evaluation


@contextlib.contextmanager
def _undisturbed(engine: PolicyEngine | ReferenceEngine) -> Iterator[None]:
    """Evaluation mode; afterwards the engine's own mode and the random generators as they were."""
    training, state = engine.scorer.training, rng_state()  # the engine around it says True in either mode
    engine.engine.eval()
    try:
        yield
    finally:
        engine.engine.train(training)
        set_rng_state(state)


def _export_newest(run_dir: Path) -> str | None:
    """The newest checkpoint as a model directory, made when it is not there yet; None without a checkpoint."""
    found = checkpoints.complete(run_dir / "checkpoints")
    if not found:
        return None
    to = run_dir / "exported" / found[-1].name
    if not to.is_dir():
        export(found[-1], to)
    return str(to)
