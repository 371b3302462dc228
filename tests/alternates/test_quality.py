"""Quality of alternates, by hand, in parts and of files."""

import json
from pathlib import Path

import pytest

from altpo_ds.alternates.quality import Quality, quality_table
from altpo_ds.alternates.report import read_groups
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import AlternatesConfig, AlternatesSource

QUESTION, ANSWER = "Where was Ada born?", "Ada was born in Zell."
ALTERNATES = ("Ada was born in Norwick.", "Ada was born in Zell.", "In Norwick town")


def test_measures_by_hand() -> None:
    quality = Quality()
    quality.add(QUESTION, ANSWER, ALTERNATES, [-1.0, -2.0, -4.5], AlternatesConfig())
    measures = quality.measures()
    assert (measures["questions"], measures["alternates"]) == (1, 3)
    # pairs share 4 of 5 and 5 words, 2 of 5 and 3, 1 of 5 and 3
    assert measures["pairwise_rouge_l"] == pytest.approx((8 / 10 + 4 / 8 + 2 / 8) / 3)
    # ten bigrams; "ada was", "was born" and "born in" are there twice, "in norwick" too
    assert measures["distinct_2"] == pytest.approx(6 / 10)
    assert measures["leak_rate"] == pytest.approx(1 / 3)
    assert measures["rouge_l_to_answer"] == pytest.approx((8 / 10 + 1 + 2 / 8) / 3)
    assert measures["words"] == pytest.approx(13 / 3)
    assert measures["log_prob"] == pytest.approx(-2.5)
    assert measures["accepted"] == pytest.approx(2 / 3)
    assert quality.rejected == {"same_as_answer": 1}


def test_parts_add_up() -> None:
    whole, first, second = Quality(), Quality(), Quality()
    for i, part in enumerate((first, second, first)):
        answer = f"{ANSWER} {i}"
        whole.add(QUESTION, answer, ALTERNATES[: i + 1], None, AlternatesConfig())
        part.add(QUESTION, answer, ALTERNATES[: i + 1], None, AlternatesConfig())
    first.merge(second)
    assert first.measures() == pytest.approx(whole.measures())
    assert first.rejected == whole.rejected


def test_nothing_measured_is_no_number() -> None:
    measures = Quality().measures()
    assert measures["questions"] == 0
    assert measures["pairwise_rouge_l"] is None
    assert quality_table({"a": (measures, {})}, "t").row_count > 5


def test_the_long_form_and_the_lists_give_the_same_groups(tmp_path: Path) -> None:
    rows = [("q1", "a1", ["x", "y"]), ("q2", "a2", ["z"]), ("q1", "other", ["w"])]
    lists, long = tmp_path / "lists.jsonl", tmp_path / "long.jsonl"
    lists.write_text("".join(json.dumps({"question": q, "answer": a, "alternates": t}) + "\n" for q, a, t in rows))
    lines = ({"question": q, "answer": a, "sub_answer": text} for q, a, texts in rows for text in texts)
    long.write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = [(q, a, tuple(texts)) for q, a, texts in rows]
    assert list(read_groups(AlternatesSource(path=str(lists)))) == expected
    assert list(read_groups(AlternatesSource(path=str(long)))) == expected


def test_a_row_without_answer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text('{"question": "q", "alternates": ["x"]}\n')
    with pytest.raises(UserError, match="row 1, column 'answer': is missing"):
        list(read_groups(AlternatesSource(path=str(file))))


def test_the_authors_alternates_can_be_read(shared: Path) -> None:
    file = shared / "data" / "alternates" / "tofu_forget01_llama2-7b_k5.jsonl"
    groups = list(read_groups(AlternatesSource(path=str(file))))
    assert len(groups) == 40
    assert all(len(texts) == 5 for _, _, texts in groups)
    quality = Quality()
    for group in groups:
        quality.add(*group, None, AlternatesConfig())
    assert quality.rejected["same_as_answer"] == quality.rejected["empty"] == 0
    assert 25 < (quality.measures()["words"] or 0) < 45
