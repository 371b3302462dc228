"""The command `alternates`: k accepted alternates for each forget question, with their provenance."""

import contextlib
import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from altpo_ds.alternates.backend import Backend, open_backend
from altpo_ds.alternates.merge import merge_shards, partial_folder, shard_file, summary_file
from altpo_ds.alternates.progress import progress
from altpo_ds.alternates.prompts import Prompt, load_prompt
from altpo_ds.alternates.question import Question
from altpo_ds.alternates.rounds import draw_into, sample_rounds
from altpo_ds.alternates.store import Shard
from altpo_ds.alternates.summary import Summary, read_summary, sha256
from altpo_ds.config.errors import UserError
from altpo_ds.config.require import check_model_path, require_alternates
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.rows import parse_qa, parsed
from altpo_ds.data.sources import Problem, describe
from altpo_ds.engine.distributed import World, broadcast_object, gather_objects, start, together
from altpo_ds.engine.models import model_hash

CHUNK_BATCHES = 8  # batches of questions that go through the rounds together

# Settings that leave the samples as they are.
FREE = {"out", "seeds", "shard", "server", "vllm", "refresh_every", "refresh_average", "buffer_size"}


def generate_alternates(config: RunConfig) -> Summary:
    """Writes `alternates.out` (none: alternates.jsonl in the run directory), its summary and its list of short
    questions. All ranks call it together; each samples for its share of the questions.

    A question that stays short is in the file with what it has, and in `Summary.short_file`; one without any
    alternate only in the latter. A start after a crash continues; one after the end returns the summary.
    """
    if config.alternates.shards > 1:
        raise UserError("alternates.shards: only the command shares a file out over several starts; set it to 1")
    summary = write_share(config)
    assert summary is not None
    return summary


def runs_by_seed(config: RunConfig) -> list[RunConfig]:
    """The run for each of `alternates.seeds`, with the seed in the name of its file; the run itself without any."""
    runs = []
    for seed in config.alternates.seeds:
        out = out_file(config)
        out = out.with_name(f"{out.stem}.seed{seed}{out.suffix}")
        alternates = config.alternates.model_copy(update={"out": str(out), "seeds": []})
        runs.append(config.model_copy(update={"seed": seed, "alternates": alternates}))
    return runs or [config]


def out_file(config: RunConfig) -> Path:
    out = Path(config.alternates.out or Path(config.run_dir) / "alternates.jsonl")
    if out.suffix != ".jsonl":
        raise UserError(f"alternates.out = {out}: must end in .jsonl")
    return out


def write_share(config: RunConfig) -> Summary | None:
    """Samples this start's share of the questions; the last of the starts merges, the others get None."""
    require_alternates(config)
    world = start(config.engine.timeout)
    with together():
        out, prompt, total = out_file(config), load_prompt(config.alternates.prompt), count_questions(config)
    shards = config.alternates.shards * world.size
    settings = _agreed_settings(config, prompt, shards, world)
    if (done := broadcast_object(_finished(out, settings) if world.is_main else None)) is not None:
        return done
    mine = config.alternates.shard * world.size + world.rank
    with together():
        shard = Shard(shard_file(partial_folder(out), mine, shards), settings)
    with contextlib.closing(shard):
        with open_backend(config, world) as backend:
            _sample_share(config, prompt, backend, shard, (mine, shards, total), settings, world)
        shard.complete()
    gather_objects(None)  # every rank's shard is complete
    with together():
        summary = merge_shards(out, shards, config.alternates, settings) if world.is_main else None
    return broadcast_object(summary)


def _agreed_settings(config: RunConfig, prompt: Prompt, shards: int, world: World) -> dict[str, Any]:
    """What the samples depend on: a file is continued only under the same. Hashed by rank 0 for all."""
    settings = None
    with together():
        if world.is_main:
            assert config.data.forget is not None
            settings = {
                "model": _model(config),
                "dtype": config.model.dtype,
                "questions": describe(config.data.forget),
                "columns": [config.data.forget.question, config.data.forget.answer],
                "system_prompt": config.data.system_prompt,
                "seed": config.seed,
                "shards": shards,
                "prompt_sha256": hashlib.sha256(prompt.source.encode()).hexdigest(),
                "server_body": config.alternates.server.body,
                **{k: v for k, v in config.alternates.model_dump(mode="json").items() if k not in FREE},
            }
    return broadcast_object(settings) or {}


def _finished(out: Path, settings: dict[str, Any]) -> Summary | None:
    """The summary of a file that was written under these settings and is unchanged."""
    found = read_summary(summary_file(out))
    same = found is not None and found.settings == settings and out.is_file() and found.sha256 == sha256(out)
    return found if same else None


def _model(config: RunConfig) -> str:
    """Fingerprint of the model's files, or its name on a server."""
    if config.alternates.backend == "openai":
        from altpo_ds.alternates.server import served_model

        return f"server:{served_model(config.alternates.server)}"
    check_model_path(config.model.path)
    return model_hash(config.model.path)


def count_questions(config: RunConfig) -> int:
    """Good rows; UserError for a broken one unless data.on_error is skip."""
    assert config.data.forget is not None
    total = 0
    for _, row in parsed(config.data.forget, parse_qa):
        if isinstance(row, Problem) and config.data.on_error == "stop":
            raise UserError(f"{row}; mend it, or set data.on_error=skip")
        total += not isinstance(row, Problem)
    if not total:
        raise UserError(f"data.forget.path = {config.data.forget.path}: no usable row")
    return total


def _questions(config: RunConfig, shard: int, shards: int) -> Iterator[Question]:
    """A shard's questions, numbered through the whole file."""
    assert config.data.forget is not None
    good = (row for _, row in parsed(config.data.forget, parse_qa) if not isinstance(row, Problem))
    for number, row in islice(enumerate(good), shard, None, shards):
        yield Question(number, str(row.question), row.answer)


def _sample_share(
    config: RunConfig,
    prompt: Prompt,
    backend: Backend,
    shard: Shard,
    share: tuple[int, int, int],
    settings: dict[str, Any],
    world: World,
) -> None:
    """Chunk after chunk through the rounds and into the shard. Ranks have equally many chunks, maybe empty ones."""
    mine, shards, total = share
    size = CHUNK_BATCHES * config.alternates.batch_size
    questions = _questions(config, mine, shards)
    chunks = -(-total // (size * shards))
    with progress("alternates", total, world.is_main) as report:
        for number in range(chunks):
            chunk = [q for q in islice(questions, size) if not shard.has_row(q.number)]
            if any(gather_objects(bool(chunk))):
                _finish_chunk(config, prompt, backend, shard, chunk, settings)
            report(min(total, (number + 1) * size * shards), f"chunk {number + 1}/{chunks}")


def _finish_chunk(
    config: RunConfig, prompt: Prompt, backend: Backend, shard: Shard, chunk: list[Question], settings: dict[str, Any]
) -> None:
    sample_rounds(chunk, prompt, config.alternates, config.seed, backend, draw_into(shard, backend))
    log_probs = backend.log_probs([(q.question, q.alternates) for q in chunk])
    rows = []
    for place, question in enumerate(chunk):
        meta = {key: settings[key] for key in ("model", "backend", "prompt", "seed", "temperature", "top_p")}
        meta |= {"samples": question.samples, "drawn": question.drawn, "rejected": question.rejected}
        if question.ratings:
            meta["ratings"] = question.ratings
        if log_probs is not None:
            meta["log_probs"] = [round(value, 4) for value in log_probs[place]]
        row = {"question": question.question, "answer": question.answer, "alternates": question.alternates}
        rows.append((question, {"row": row | {"meta": meta}, "tokens": question.tokens}))
    shard.finish(rows)
