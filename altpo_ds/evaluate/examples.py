"""Example answers side by side, with the facts of the true answer marked where a model repeats them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from altpo_ds.evaluate.metrics import Row
from altpo_ds.evaluate.runs import Evaluation, ReportRun

WORD = re.compile(r"\w+(?:-\w+)*")  # a possessive's s is a word of its own, too short to count
SHORT = 3  # letters: words up to this length are mostly grammar, unless they hold a digit or are a name


class Piece(NamedTuple):
    """A stretch of text, and whether it is one of the distinctive words."""

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


def distinctive_words(question: str, answer: str) -> frozenset[str]:
    """Words of the answer, lower-cased, that the question does not give away: the facts to be forgotten."""
    asked = {match.group().lower() for match in WORD.finditer(question)}
    words = set()
    for match in WORD.finditer(answer):
        word, first = match.group(), match.start() == 0
        name = word[0].isupper() and not first
        if (len(word) > SHORT or name or any(map(str.isdigit, word))) and word.lower() not in asked:
            words.add(word.lower())
    return frozenset(words)


def mark(text: str, words: frozenset[str]) -> list[Piece]:
    """The text cut into pieces, those in `words` marked; joined, the pieces are the text."""
    pieces, end = [], 0
    for match in WORD.finditer(text):
        if match.group().lower() in words:
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
    words = distinctive_words(question, true_answer)
    answers = []
    for heading, generations in models:
        if question in generations:
            pieces = mark(generations[question], words)
            repeated = len({piece.text.lower() for piece in pieces if piece.marked})
            answers.append(Answer(heading, pieces, repeated))
    return Example(question, mark(true_answer, words), len(words), answers)


def _generations(evaluation: Evaluation, split: str) -> dict[str, str]:
    return {
        str(row["question"]): str(row["generation"])
        for row in evaluation.rows(split)
        if row.get("generation") is not None
    }
