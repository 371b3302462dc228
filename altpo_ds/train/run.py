"""The commands `unlearn` and `finetune`: a run from its configuration to its last checkpoint."""

import logging
from pathlib import Path
from typing import Any

from altpo_ds.alternates.refresh import Refresher
from altpo_ds.config.batch import batch_arithmetic, total_steps
from altpo_ds.config.errors import Stopped, UserError
from altpo_ds.config.files import write_whole
from altpo_ds.config.load import dump_config, load_config
from altpo_ds.config.require import require_finetune, require_unlearn
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.check import LISTED, check_share, decide, merge
from altpo_ds.data.stream import Rows, TrainStream, draw_seed
from altpo_ds.engine import checkpoints, preemption
from altpo_ds.engine.build import policy_engine
from altpo_ds.engine.distributed import World, gather_objects, start, together
from altpo_ds.engine.export import SIDE_FILES
from altpo_ds.engine.models import load_tokenizer
from altpo_ds.engine.rng import seed_all
from altpo_ds.evaluate.run import Evaluator
from altpo_ds.train.monitor import Monitor
from altpo_ds.train.provenance import write_provenance
from altpo_ds.train.reference import build_reference
from altpo_ds.train.trainer import Trainer

log = logging.getLogger(__name__)

# What a resumed run may change: where it runs and what is watched, never what it learns.
RESUMABLE = ("run_dir", "checkpoints", "tracking", "evaluate", "engine")
RESUMABLE += ("train.log_every", "train.evaluate_every", "train.on_nonfinite", "train.max_skips")
# how ranks share out a global batch
RESUMABLE += ("train.micro_batch_size", "train.gradient_accumulation_steps", "train.micro_batch_tokens")


def unlearn(config: RunConfig, resume: str = "auto") -> Path:
    """Unlearns `data.forget` and returns the last checkpoint. `resume`: auto, never, or a checkpoint's path."""
    require_unlearn(config)
    return _run(config, resume)


def finetune(config: RunConfig, resume: str = "auto") -> Path:
    """Supervised fine-tuning on `data.train` under the same engine; returns the last checkpoint."""
    require_finetune(config)
    objective = config.objective.model_copy(update={"name": "sft", "retain_loss": "nll", "retain_weight": 1.0})
    return _run(config.model_copy(update={"objective": objective}), resume)


def _run(config: RunConfig, resume: str) -> Path:
    world = start(config.engine.timeout)
    run_dir = Path(config.run_dir)
    with together():
        batch = batch_arithmetic(config.train, world.size)
        tokenizer = load_tokenizer(config.model.path, config.model.trust_remote_code)
        chat = ChatTokenizer(tokenizer, config.data.system_prompt)
    checkpoint = _checkpoint(config, run_dir, resume, world)
    index, rows = _check_data(config, chat, world)
    per_epoch = rows.forget if index is not None else rows.retain
    steps = total_steps(per_epoch, batch, config.train)
    with together():
        if world.is_main and checkpoint is None:
            write_whole(run_dir / "config.yaml", dump_config(config))
            write_provenance(config, rows, steps, world)
    evaluator = Evaluator(config, chat, world) if config.train.evaluate_every else None
    reference = build_reference(config, chat, index, rows, world) if index is not None else None
    policy = policy_engine(config, batch, steps, world)
    monitor = Monitor(config, evaluator, world, steps)

    def side_files(folder: Path) -> None:
        model = policy.scorer.model
        for part in (model.config, model.generation_config, chat.tokenizer):
            if part is not None:
                part.save_pretrained(folder / SIDE_FILES)

    trainer = Trainer(
        config=config,
        policy=policy,
        reference=reference,
        stream=TrainStream(config.data, config.seed, rows, index, world.rank, world.size),
        chat=chat,
        batch=batch,
        steps=steps,
        rows_per_epoch=per_epoch,
        world=world,
        report=monitor.report,
        evaluate=lambda step: monitor.evaluate(step, policy),
        saver=checkpoints.Saver(run_dir / "checkpoints", config.checkpoints.keep, world),
        side_files=side_files,
        refresher=Refresher(config, chat, policy, world)
        if index is not None and config.alternates.refresh_every
        else None,
    )
    if checkpoint is not None:
        trainer.load(checkpoint)
    else:
        seed_all(draw_seed(config.seed, "train", world.rank))  # of dropout, if any
    gather_objects(None)
    preemption.defer()
    try:
        with monitor.running(trainer.step):
            trainer.train()
            last = checkpoints.complete(run_dir / "checkpoints")[-1]
            monitor.finished(last)
    except Stopped:
        gather_objects(None)  # leave together: a launcher ends those that one rank leaves behind
        raise
    return last


def _checkpoint(config: RunConfig, run_dir: Path, resume: str, world: World) -> Path | None:
    """Where the run continues, the same on all ranks; None for a new one. Refuses what would lose or mix runs."""
    with together():
        found = checkpoints.complete(run_dir / "checkpoints")
        if resume == "never" and found:
            raise UserError(
                f"'{run_dir}' holds checkpoints up to {found[-1].name}; give another run_dir for a fresh start"
            )
        before = run_dir / "config.yaml"
        if (found or resume not in ("auto", "never")) and before.is_file():
            _refuse_changes(load_config(before), config, run_dir)
    if resume in ("auto", "never"):
        return checkpoints.newest_usable(run_dir / "checkpoints", world)
    if damaged := checkpoints.damage(Path(resume), world):
        raise UserError(f"--resume {resume}: checkpoint file {damaged}; give an older one, or --resume auto")
    return Path(resume)


def _refuse_changes(old: RunConfig, new: RunConfig, run_dir: Path) -> None:
    was, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    for key in sorted(was.keys() | now.keys()):
        free = any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)
        if not free and was.get(key) != now.get(key):
            raise UserError(
                f"{key} = {now.get(key)!r}, but the run in '{run_dir}' was begun with {was.get(key)!r}; "
                "restore it, or give another run_dir"
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, part in value.items() for key, leaf in _flat(part, f"{prefix}{name}.").items()}


def _check_data(config: RunConfig, chat: ChatTokenizer, world: World) -> tuple[AlternatesIndex | None, Rows]:
    """Reads and measures every row before anything is trained; each rank its share."""
    with together():
        unlearning = config.objective.name != "sft" and config.data.alternates is not None
        index = AlternatesIndex(config.data.alternates) if unlearning and config.data.alternates else None
        share = check_share(config.data, chat, index, world.rank, world.size, config.train.micro_batch_tokens)
    found = merge(gather_objects(share))
    rows = decide(config.data, found, unlearning=index is not None)
    if world.is_main and found.problems:
        listed = "; ".join(str(problem) for problem in found.problems[:LISTED])
        log.warning("%d rows skipped: %s", len(found.problems), listed)
    if world.is_main and found.short:
        wanted = config.data.alternates_per_question
        log.warning("%d questions have fewer than %d alternates; all of theirs are used", found.short, wanted)
    return index, rows
