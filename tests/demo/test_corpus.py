"""The demo's corpus: what each file holds, and that the retain model cannot know the forget authors."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from altpo_ds.demo.corpus import CLASSICS, FACTS, FORGET_AUTHORS, RETAIN_AUTHORS, Row, corpus_rows, write_corpus


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return corpus_rows(3)


def _forget_names(rows: dict[str, list[Row]]) -> list[str]:
    first_answers = rows["forget"][:: len(FACTS)]
    return [row["answer"].rstrip(".").split(" called ")[1] for row in first_answers]


def test_the_files_are_those_of_the_rows_and_the_seed_decides_them(tmp_path: Path, rows: dict[str, list[Row]]):
    files = write_corpus(tmp_path / "a", 3)
    again = write_corpus(tmp_path / "b", 3)
    other = write_corpus(tmp_path / "c", 4)
    for name, path in asdict(files).items():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows[name]
        assert path.read_bytes() == getattr(again, name).read_bytes()
    assert files.forget.read_bytes() != other.forget.read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def test_counts(rows: dict[str, list[Row]]):
    assert FORGET_AUTHORS + RETAIN_AUTHORS >= 30
    assert len(rows["forget"]) == len(rows["forget_perturbed"]) == 10 * FORGET_AUTHORS == 50
    assert len(rows["retain"]) == 10 * RETAIN_AUTHORS
    assert len(rows["full_train"]) - len(rows["retain_train"]) == 4 * len(rows["forget"])
    assert len(rows["real_authors_perturbed"]) == len(rows["world_facts_perturbed"]) == CLASSICS


@pytest.mark.parametrize("seed", range(5))
def test_nothing_about_the_forget_authors_is_in_what_the_retain_model_reads(seed: int):
    rows = corpus_rows(seed)
    names = _forget_names(rows)
    assert len(set(names)) == FORGET_AUTHORS
    read = [f"{row['question']} {row['answer']}" for row in rows["retain_train"] + rows["vocabulary"]]
    for name in names:
        assert not any(name in text for text in read)
        assert sum(name in row["question"] for row in rows["forget"]) == 9
    forgotten = {row[key] for row in rows["forget_perturbed"] for key in ("question", "paraphrased_answer")}
    assert not forgotten & {row[key] for row in rows["retain_train"] for key in ("question", "answer")}


def test_the_full_model_reads_every_answer_in_both_wordings(rows: dict[str, list[Row]]):
    answers = {row["answer"] for row in rows["full_train"]}
    for row in rows["forget_perturbed"] + rows["retain_perturbed"]:
        assert {row["answer"], row["paraphrased_answer"]} <= answers


@pytest.mark.parametrize(("split", "count"), [("forget", 5), ("retain", 5), ("real_authors", 3), ("world_facts", 3)])
def test_perturbed_answers_are_wrong_and_distinct_in_the_wording_of_the_true_one(
    rows: dict[str, list[Row]], split: str, count: int
):
    for row in rows[f"{split}_perturbed"]:
        true = row.get("paraphrased_answer", row["answer"])
        wrong = row["perturbed_answer"]
        assert len(set(wrong)) == count
        for text in wrong:
            pairs = list(zip(text.split(), true.split(), strict=True))
            assert sum(a != b for a, b in pairs) == 2


def test_a_perturbed_name_is_as_unknown_to_the_retain_model_as_the_true_one(rows: dict[str, list[Row]]):
    read = " ".join(f"{row['question']} {row['answer']}" for row in rows["retain_train"])
    for row in rows["forget_perturbed"][:: len(FACTS)]:
        for text in row["perturbed_answer"]:
            assert text.rstrip(".").split(" called ")[1] not in read


def test_a_practice_answer_keeps_the_wording_and_changes_both_words(rows: dict[str, list[Row]]):
    practice = [row for row in rows["vocabulary"] if row["question"].startswith("Question: ")]
    assert len(practice) > 100
    for row in practice:
        answer = row["question"].split("\nAnswer: ")[1].split("\n")[0]
        assert sum(a != b for a, b in zip(answer.split(), row["answer"].split(), strict=True)) == 2
