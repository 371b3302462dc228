"""Rounds of sampling: questions that are short of alternates are asked again, up to a limit."""

import time
from collections.abc import Callable, Sequence

from altpo_ds.alternates.acceptance import SURPLUS, Context, reason
from altpo_ds.alternates.backend import Answered, Backend
from altpo_ds.alternates.judge import keep_best
from altpo_ds.alternates.prompts import Prompt
from altpo_ds.alternates.question import Question, Request, Sample
from altpo_ds.alternates.store import Shard
from altpo_ds.config.schema import AlternatesConfig
from altpo_ds.engine.distributed import gather_objects, together

Draw = Callable[[Sequence[Request]], list[list[Sample]]]
"""Samples of each request. All ranks call it together."""


def sample_rounds(
    questions: Sequence[Question], prompt: Prompt, settings: AlternatesConfig, seed: int, backend: Backend, draw: Draw
) -> None:
    """Fills questions with alternates. All ranks call it together, each with questions of its own, of any number."""
    rendered = {q.number: prompt.render(q.question, q.answer) for q in questions}
    for _ in range(settings.attempts):
        short = [q for q in questions if len(q.alternates) < settings.wanted]
        if not any(gather_objects(bool(short))):
            break
        drawn = draw([q.request(rendered[q.number], settings.wanted, seed) for q in short])
        for question, samples in zip(short, drawn, strict=True):
            accept(question, samples, prompt, settings)
    if settings.judge == "self":
        keep_best(questions, prompt, backend, settings.count)


def accept(question: Question, samples: Sequence[Sample], prompt: Prompt, settings: AlternatesConfig) -> None:
    """Each sample in turn becomes an alternate or is rejected."""
    context = Context(question.question, question.answer, prompt.own_text, settings)
    for drawn in samples:
        why = reason(drawn, context, question.alternates)
        enough = len(question.alternates) >= settings.wanted
        question.take(drawn, SURPLUS if why is None and enough else why)


def draw_into(shard: Shard, backend: Backend) -> Draw:
    """Samples by way of a shard: kept as they come, and not drawn again where an earlier start kept them."""

    def draw(requests: Sequence[Request]) -> list[list[Sample]]:
        started = time.monotonic()

        def keep(answered: Answered) -> None:
            nonlocal started
            now = time.monotonic()
            shard.add([(request.number, request.first, samples) for request, samples in answered], now - started)
            started = now

        done = {request.number for request in requests if shard.samples(request.number, request.first, 1)}
        with together():
            backend.sample(requests, done, keep)
        return [shard.samples(request.number, request.first, len(request.seeds)) for request in requests]

    return draw


def draw_once(backend: Backend) -> Draw:
    """Samples that are kept nowhere."""

    def draw(requests: Sequence[Request]) -> list[list[Sample]]:
        found: dict[int, list[Sample]] = {}
        backend.sample(requests, (), lambda answered: found.update({r.number: samples for r, samples in answered}))
        return [found[request.number] for request in requests]

    return draw
