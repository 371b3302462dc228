"""Rounds of sampling: questions that are short of alternates are asked again, up to a limit."""

import time
from collections.abc import Sequence

from altpo_ds.alternates.acceptance import SURPLUS, Context, reason
from altpo_ds.alternates.backend import Answered, Backend
from altpo_ds.alternates.judge import keep_best
from altpo_ds.alternates.prompts import Prompt
from altpo_ds.alternates.question import Question, Request, Sample
from altpo_ds.alternates.store import Shard
from altpo_ds.config.schema import AlternatesConfig
from altpo_ds.engine.distributed import gather_objects, together


def sample_rounds(
    questions: Sequence[Question], prompt: Prompt, settings: AlternatesConfig, seed: int, backend: Backend, shard: Shard
) -> None:
    """Fills questions with alternates. All ranks call it together, each with questions of its own, of any number.

    Samples that the shard holds from an earlier start are not drawn again.
    """
    rendered = {q.number: prompt.render(q.question, q.answer) for q in questions}
    for _ in range(settings.attempts):
        short = [q for q in questions if len(q.alternates) < settings.wanted]
        if not any(gather_objects(bool(short))):
            break
        requests = [q.request(rendered[q.number], settings.wanted, seed) for q in short]
        drawn = _draw(requests, backend, shard)
        for question, samples in zip(short, drawn, strict=True):
            accept(question, samples, prompt, settings)
    if settings.judge == "self":
        keep_best(list(questions), prompt, backend, settings.count)


def _draw(requests: Sequence[Request], backend: Backend, shard: Shard) -> list[list[Sample]]:
    started = time.monotonic()

    def keep(answered: Answered) -> None:
        nonlocal started
        now = time.monotonic()
        shard.add([(request.number, request.first, samples) for request, samples in answered], now - started)
        started = now

    done = {request.number for request in requests if shard.samples(request.number, request.first)}
    with together():
        backend.sample(requests, done, keep)
    return [shard.samples(request.number, request.first) for request in requests]


def accept(question: Question, samples: Sequence[Sample], prompt: Prompt, settings: AlternatesConfig) -> None:
    """Each sample in turn becomes an alternate or is rejected."""
    context = Context(question.question, question.answer, prompt.own_text, settings)
    for drawn in samples:
        why = reason(drawn, context, question.alternates)
        enough = len(question.alternates) >= settings.wanted
        question.take(drawn, SURPLUS if why is None and enough else why)
