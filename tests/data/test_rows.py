"""What a row must be, column by column."""

import json
from pathlib import Path
from typing import Any

import pytest

from altpo_ds.config.section import AlternatesSource, PerturbedSource, RetainSource, Source
from altpo_ds.data.alternates_index import AlternatesIndex
from altpo_ds.data.rows import BrokenRowError, parse_alternates, parse_perturbed, parse_qa, parsed
from altpo_ds.data.sources import Place, Problem

PLACE = Place("f.jsonl", 7)
GOOD = {"question": "q", "answer": "a"}


def problem_of(parse: Any, row: dict[str, Any], source: Source) -> Problem:
    with pytest.raises(BrokenRowError) as caught:
        parse(row, PLACE, source)
    problem = caught.value.problem
    assert str(problem).startswith(f"f.jsonl row 7, column '{problem.column}': ")
    return problem


def test_columns_have_the_names_of_the_run_file() -> None:
    row = parse_qa({"Q": "why", "A": " because "}, PLACE, Source(path="x", question="Q", answer="A"))
    assert (row.question, row.answer, row.place) == ("why", " because ", PLACE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "is NoneType, a string is expected"),
        (3, "is int"),
        (["x"], "is list"),
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("a\ud800", "lone surrogate"),
        ("a\0b", "NUL"),
    ],
)
def test_broken_text_names_its_column(value: Any, expected: str) -> None:
    for column in ("question", "answer"):
        problem = problem_of(parse_qa, {**GOOD, column: value}, Source(path="x"))
        assert problem.column == column
        assert expected in problem.what


def test_a_missing_column_is_told_with_those_that_are_there() -> None:
    problem = problem_of(parse_qa, {"question": "q", "reply": "a"}, Source(path="x"))
    assert problem.column == "answer"
    assert "the row has 'question', 'reply'" in problem.what


def test_documents() -> None:
    source = RetainSource(path="x", text="body")
    row = parse_qa({"body": "words"}, PLACE, source)
    assert (row.question, row.answer) == (None, "words")
    assert problem_of(parse_qa, GOOD, source).column == "body"


def test_both_forms_of_alternates() -> None:
    source = AlternatesSource(path="x")
    assert parse_alternates({"question": "q", "alternates": ["a", "b"]}, PLACE, source).alternates == ("a", "b")
    assert parse_alternates({"question": "q", "sub_answer": "a"}, PLACE, source).alternates == ("a",)
    renamed = AlternatesSource(path="x", alternate="other")
    assert parse_alternates({"question": "q", "other": "a"}, PLACE, renamed).alternates == ("a",)


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        ({"question": "q"}, "alternates", "is missing, and so is 'sub_answer'"),
        ({"question": "q", "alternates": []}, "alternates", "a list of one or more strings"),
        ({"question": "q", "alternates": "a"}, "alternates", "a list of one or more strings"),
        ({"question": "q", "alternates": ["a", ""]}, "alternates", "is empty"),
        ({"question": "q", "alternates": ["a", 1]}, "alternates", "is int"),
        ({"question": "q", "sub_answer": None}, "sub_answer", "is NoneType"),
        ({"alternates": ["a"]}, "question", "is missing"),
    ],
)
def test_broken_alternates(row: dict[str, Any], column: str, expected: str) -> None:
    problem = problem_of(parse_alternates, row, AlternatesSource(path="x"))
    assert problem.column == column
    assert expected in problem.what


def test_perturbed_rows() -> None:
    source = PerturbedSource(path="x")
    row = parse_perturbed({**GOOD, "perturbed_answer": ["b", "c"]}, PLACE, source)
    assert (row.paraphrased_answer, row.perturbed_answer) == ("a", ("b", "c"))
    row = parse_perturbed({**GOOD, "paraphrased_answer": "p", "perturbed_answer": ["b"]}, PLACE, source)
    assert row.paraphrased_answer == "p"
    assert "truth ratio" in problem_of(parse_perturbed, GOOD, source).what
    broken = {**GOOD, "paraphrased_answer": "", "perturbed_answer": ["b"]}
    assert problem_of(parse_perturbed, broken, source).column == "paraphrased_answer"


def test_broken_rows_of_a_file_come_in_their_place(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    lines = [json.dumps(GOOD), "oops", json.dumps({"question": "\ud800", "answer": "a"}), json.dumps(GOOD)]
    file.write_text("\n".join(lines))
    found = list(parsed(Source(path=str(file)), parse_qa))
    assert [place.row for place, _ in found] == [1, 2, 3, 4]
    assert [isinstance(row, Problem) for _, row in found] == [False, True, True, False]
    assert [row.column for _, row in found if isinstance(row, Problem)] == ["-", "question"]


def test_index_joins_both_forms_over_files(tmp_path: Path) -> None:
    long, short = tmp_path / "long.jsonl", tmp_path / "short.jsonl"
    rows = [{"question": "q", "sub_answer": "one"}, {"question": "r", "sub_answer": "x"}, {"question": "s"}]
    rows.append({"question": " q ", "sub_answer": "two"})
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    short.write_text(json.dumps({"question": "q", "alternates": ["two", "three", "three"]}) + "\n")
    index = AlternatesIndex(AlternatesSource(path=[str(long), str(short)]))
    expected = [(Place(str(long), 1), "one"), (Place(str(long), 4), "two"), (Place(str(short), 1), "three")]
    assert index.find("q") == index.find("q\n") == expected
    assert index.find("Q") == []
    assert index.rows == 4
    assert [problem.place for problem in index.problems] == [Place(str(long), 3)]
    index.close()
