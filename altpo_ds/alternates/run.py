"""The command `alternates`: k accepted alternates for each forget question, with their provenance."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from altpo_ds.alternates.acceptance import SURPLUS, Context, Sample, reason
from altpo_ds.alternates.prompts import Prompt, load_prompt, prompt_ids
from altpo_ds.config.errors import UserError
from altpo_ds.config.require import require_alternates
from altpo_ds.config.schema import RunConfig
from altpo_ds.data.chat import ChatTokenizer
from altpo_ds.data.rows import QARow, parse_qa, parsed
from altpo_ds.data.sources import Problem
from altpo_ds.data.stream import draw_seed
from altpo_ds.engine.build import reference_engine
from altpo_ds.engine.distributed import World, gather_objects, start, together
from altpo_ds.engine.generation import Sampling, decode, generate
from altpo_ds.engine.models import load_tokenizer, model_hash
from altpo_ds.engine.scorer import SequenceScorer


@dataclass
class Progress:
    """A question, what was accepted so far, and what became of every sample drawn."""

    number: int
    question: str
    answer: str
    alternates: list[str] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)  # sampling number of each alternate
    rejected: list[dict[str, Any]] = field(default_factory=list)
    drawn: int = 0
    tokens: int = 0

    def take(self, sample: Sample, context: Context) -> None:
        """Accepts or rejects the next sample."""
        why = reason(sample, context, self.alternates)
        if why is None and len(self.alternates) == context.config.count:
            why = SURPLUS
        if why is None:
            self.alternates.append(sample.text)
            self.samples.append(self.drawn)
        else:
            self.rejected.append({"sample": self.drawn, "reason": why})
        self.drawn += 1
        self.tokens += sample.tokens


@dataclass(frozen=True)
class Summary:
    """What `generate_alternates` did. `short_file` lists the questions with fewer alternates than wanted."""

    file: str
    short_file: str
    questions: int
    alternates: int
    short: int
    drawn: int
    tokens: int
    rejected: dict[str, int]  # samples by reason

    def short_questions(self) -> Iterator[dict[str, Any]]:
        """{"question", "answer", "alternates"} of each question that stayed short, in file order."""
        with Path(self.short_file).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def table(self) -> Table:
        table = Table(title=f"Alternates: {self.file}", title_justify="left", show_header=False)
        table.add_column("what")
        table.add_column("how many", justify="right")
        table.add_row("questions", str(self.questions))
        table.add_row("alternates", str(self.alternates))
        table.add_row("questions that stayed short", str(self.short))
        table.add_row("samples drawn", str(self.drawn), end_section=True)
        for why, count in self.rejected.items():
            table.add_row(f"rejected: {why}", str(count))
        return table


def generate_alternates(config: RunConfig) -> Summary:
    """Writes `alternates.out` (none: alternates.jsonl in the run directory) and a summary beside it.

    All ranks call it together; each samples for its share of the questions. A question without any alternate is
    left out of the file and listed, with those that stayed short, in `Summary.short_file`.
    """
    require_alternates(config)
    world = start(config.engine.timeout)
    with together():
        rows = read_questions(config)
        prompt = load_prompt(config.alternates.prompt)
        chat = ChatTokenizer(load_tokenizer(config.model.path), config.data.system_prompt)
        prompt_ids(prompt.render("a question", "an answer"), chat)
    scorer = reference_engine(config, config.model.path, world).scorer
    mine = [Progress(i, str(row.question), row.answer) for i, row in enumerate(rows) if i % world.size == world.rank]
    for round_ in range(config.alternates.attempts):
        short = [progress for progress in mine if len(progress.alternates) < config.alternates.count]
        if not any(gather_objects(bool(short))):
            break
        _sample(config, scorer, chat, prompt, short, round_, world)
    everything = sorted((p for part in gather_objects(mine) for p in part), key=lambda progress: progress.number)
    summary = _summary(config, everything)
    if world.is_main:
        _write(config, everything, summary, model_hash(config.model.path))
    return summary


def read_questions(config: RunConfig) -> list[QARow]:
    """The forget rows; UserError for a broken one unless data.on_error is skip."""
    assert config.data.forget is not None
    rows = []
    for _, row in parsed(config.data.forget, parse_qa):
        if not isinstance(row, Problem):
            rows.append(row)
        elif config.data.on_error == "stop":
            raise UserError(f"{row}; mend it, or set data.on_error=skip")
    if not rows:
        raise UserError("no usable row in data.forget")
    return rows


def _sample(
    config: RunConfig,
    scorer: SequenceScorer,
    chat: ChatTokenizer,
    prompt: Prompt,
    questions: Sequence[Progress],
    round_: int,
    world: World,
) -> None:
    import torch

    settings = config.alternates
    torch.manual_seed(draw_seed(config.seed, "alternates", world.rank, round_))
    rendered = [prompt.render(p.question, p.answer) for p in questions]
    sampling = Sampling(settings.max_new_tokens, None, settings.temperature, settings.top_p, settings.count)
    ids = [prompt_ids(r, chat) for r in rendered]
    drawn = generate(scorer, chat.tokenizer, ids, sampling, world, settings.batch_size)
    for progress, shown, responses in zip(questions, rendered, drawn, strict=True):
        context = Context(progress.question, progress.answer, prompt.own_text(), settings)
        for response in responses:
            text = decode(chat.tokenizer, response)
            stopped = cut_at(text, shown.stop)
            finished = len(response) < settings.max_new_tokens or stopped != text
            progress.take(Sample(stopped, len(response), finished), context)


def cut_at(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of the stop texts."""
    ends = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    return text[: min(ends)].strip() if ends else text


def _summary(config: RunConfig, everything: Sequence[Progress]) -> Summary:
    file = Path(config.alternates.out or Path(config.run_dir) / "alternates.jsonl")
    rejected = Counter(item["reason"] for progress in everything for item in progress.rejected)
    return Summary(
        file=str(file),
        short_file=str(file.with_suffix(".short.jsonl")),
        questions=len(everything),
        alternates=sum(len(progress.alternates) for progress in everything),
        short=sum(len(progress.alternates) < config.alternates.count for progress in everything),
        drawn=sum(progress.drawn for progress in everything),
        tokens=sum(progress.tokens for progress in everything),
        rejected=dict(rejected.most_common()),
    )


def _write(config: RunConfig, everything: Sequence[Progress], summary: Summary, model: str) -> None:
    settings = config.alternates
    shared = {"model": model, "prompt": settings.prompt, "seed": config.seed, "temperature": settings.temperature}
    rows, short = [], []
    for progress in everything:
        row = {"question": progress.question, "answer": progress.answer, "alternates": progress.alternates}
        if progress.alternates:
            meta = shared | {"samples": progress.samples, "drawn": progress.drawn, "rejected": progress.rejected}
            rows.append(row | {"meta": meta})
        if len(progress.alternates) < settings.count:
            short.append(row)
    _write_aside(Path(summary.short_file), _lines(short))
    _write_aside(Path(summary.file).with_suffix(".summary.json"), json.dumps(asdict(summary), indent=1))
    _write_aside(Path(summary.file), _lines(rows))


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_aside(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.rename(file)
