"""Example answers side by side, with the facts of the true answer marked where a model repeats them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from altpo_ds.alternates.words import distinctive, words
from altpo_ds.evaluate.metrics import Row
from altpo_ds.evaluate.runs import Evaluation, ReportRun

TOKEN = re.compile(r"\w+(?:[-'’]\w+)*")


class Piece(NamedTuple):
    """A stretch of text, and whether it holds one of the distinctive words."""

    text: str
    marked: bool


class Answer(NamedTuple):
    """One model's answer; `repeated` of the `distinctive` words of the true answer are in it."""

    heading: str
    pieces: Sequence[Piece]
    repeated: int


class Example(NamedTuple):
    question: str
    true_answer: Sequence[Piece]
    distinctive: int
    answers: Sequence[Answer]


def mark(text: str, facts: frozenset[str]) -> list[Piece]:
    """The text cut into pieces, those with a word of `facts` marked; joined, the pieces are the text."""
    pieces, end = [], 0
    for match in TOKEN.finditer(text):
        if facts & set(words(match.group())):
            pieces += [Piece(text[end : match.start()], False), Piece(match.group(), True)]
            end = match.end()
    return [piece for piece in [*pieces, Piece(text[end:], False)] if piece.text]


def examples(run: ReportRun, split: str, count: int) -> list[Example]:
    """The first `count` questions of a split with the answers of each model that was evaluated on them."""
    models = [("before", run.before), ("after", run.after), ("retain model", run.retain)]
    answers = [(heading, _generations(evaluation, split)) for heading, evaluation in models if evaluation]
    rows = next((evaluation.rows(split) for evaluation in (run.after, run.before) if evaluation), [])
    return [_example(row, answers) for row in rows[:count]]


def _example(row: Row, models: Sequence[tuple[str, dict[str, str]]]) -> Example:
    question, true_answer = str(row["question"]), str(row["answer"])
    facts = distinctive(question, true_answer)
    answers = []
    for heading, generations in models:
        if question in generations:
            text = generations[question]
            answers.append(Answer(heading, mark(text, facts), len(facts & set(words(text)))))
    return Example(question, mark(true_answer, facts), len(facts), answers)


def _generations(evaluation: Evaluation, split: str) -> dict[str, str]:
    return {
        str(row["question"]): str(row["generation"])
        for row in evaluation.rows(split)
        if row.get("generation") is not None
    }
