"""The model as the judge of its own candidates: it rates each one from 1 to 9, asked by a prompt alone."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from altpo_ds.alternates.acceptance import OUTRANKED
from altpo_ds.alternates.backend import Backend
from altpo_ds.alternates.prompts import Prompt, Rendered
from altpo_ds.alternates.question import Question


@cache
def _template() -> jinja2.Template:
    return jinja2.Template(Path(__file__).with_name("judge.jinja").read_text(encoding="utf-8"))


def judge_prompt(question: Question, alternate: str, form: str) -> Rendered:
    """The judge's prompt in the form of the sampling one: a chat message, or a text that ends before the digit."""
    text = _template().render(question=question.question, answer=question.answer, alternate=alternate)
    return Rendered(text if form == "chat" else f"{text}\nRating: ", form, (), None)


def keep_best(questions: Sequence[Question], prompt: Prompt, backend: Backend, count: int) -> None:
    """Leaves each question with its `count` best candidates. All ranks call it together."""
    form = prompt.render("", "").form
    prompts = [judge_prompt(question, text, form) for question in questions for text in question.alternates]
    ratings = iter(backend.rate(prompts))
    for question in questions:
        question.keep_best([next(ratings) for _ in question.alternates], count, OUTRANKED)
