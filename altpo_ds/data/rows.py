"""Typed rows and their validation: what a question, an answer, an alternate must be."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from altpo_ds.config.section import AlternatesSource, PerturbedSource, RetainSource, Source
from altpo_ds.data.sources import Place, Problem, read

SURROGATE = re.compile("[\ud800-\udfff]")

S = TypeVar("S", bound=Source)
R = TypeVar("R")


@dataclass(frozen=True)
class QARow:
    """A question with its answer; a plain document has no question."""

    place: Place
    question: str | None
    answer: str


@dataclass(frozen=True)
class AlternatesRow:
    """A question with one or more alternates (the long form has one a row)."""

    place: Place
    question: str
    alternates: tuple[str, ...]


@dataclass(frozen=True)
class PerturbedRow:
    """An evaluation row; without a paraphrase the answer stands for it (real authors, world facts)."""

    place: Place
    question: str
    answer: str
    paraphrased_answer: str
    perturbed_answer: tuple[str, ...]
    paraphrased_question: tuple[str, ...] = ()


class BrokenRowError(ValueError):
    """Raised by the parsers below; carries the Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _fail(place: Place, column: str, what: str) -> BrokenRowError:
    return BrokenRowError(Problem(place, column, what))


def _check_text(place: Place, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _fail(place, column, f"is {type(value).__name__}, a string is expected")
    if not value.strip():
        raise _fail(place, column, "is empty")
    if not value.isascii() and SURROGATE.search(value):
        raise _fail(place, column, "holds a lone surrogate, which no tokenizer can encode")
    if "\0" in value:
        raise _fail(place, column, "holds a NUL character")
    return value


def _text(row: dict[str, Any], column: str, place: Place) -> str:
    if column not in row:
        columns = ", ".join(f"'{name}'" for name in row) or "none"
        raise _fail(place, column, f"is missing; the row has {columns}; name the right column in the run file")
    return _check_text(place, column, row[column])


def _texts(row: dict[str, Any], column: str, place: Place) -> tuple[str, ...]:
    value = row[column]
    if not isinstance(value, list) or not value:
        raise _fail(place, column, "a list of one or more strings is expected")
    return tuple(_check_text(place, column, item) for item in value)


def parse_qa(row: dict[str, Any], place: Place, source: Source) -> QARow:
    """Question and answer, or a document where the source names a text column. Raises BrokenRowError."""
    if isinstance(source, RetainSource) and source.text is not None:
        return QARow(place, None, _text(row, source.text, place))
    return QARow(place, _text(row, source.question, place), _text(row, source.answer, place))


def parse_alternates(row: dict[str, Any], place: Place, source: AlternatesSource) -> AlternatesRow:
    """A row with the list of alternates, or with one alternate. Raises BrokenRowError."""
    question = _text(row, source.question, place)
    if source.alternates in row:
        return AlternatesRow(place, question, _texts(row, source.alternates, place))
    if source.alternate in row:
        return AlternatesRow(place, question, (_text(row, source.alternate, place),))
    raise _fail(place, source.alternates, f"is missing, and so is '{source.alternate}' of the long form")


def parse_perturbed(row: dict[str, Any], place: Place, source: PerturbedSource) -> PerturbedRow:
    """An evaluation row. Raises BrokenRowError."""
    answer = _text(row, source.answer, place)
    if source.perturbed_answer not in row:
        raise _fail(place, source.perturbed_answer, "is missing; the truth ratio needs perturbed answers")
    paraphrased = _text(row, source.paraphrased_answer, place) if source.paraphrased_answer in row else answer
    perturbed = _texts(row, source.perturbed_answer, place)
    question = _text(row, source.question, place)
    return PerturbedRow(place, question, answer, paraphrased, perturbed, paraphrased_questions(row, place, source))


def paraphrased_questions(row: dict[str, Any], place: Place, source: PerturbedSource) -> tuple[str, ...]:
    """The question in other words, once or several times; none where the column is absent."""
    column = source.paraphrased_question
    if row.get(column) is None:
        return ()
    return (_text(row, column, place),) if isinstance(row[column], str) else _texts(row, column, place)


def parsed(source: S, parse: Callable[[dict[str, Any], Place, S], R]) -> Iterator[tuple[Place, R | Problem]]:
    """Rows of a source through a parser; a broken one comes as its Problem."""
    for place, row in read(source):
        if isinstance(row, Problem):
            yield place, row
            continue
        try:
            yield place, parse(row, place, source)
        except BrokenRowError as broken:
            yield place, broken.problem
