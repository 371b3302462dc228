"""Comparing texts by words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from altpo_ds.alternates.words import common_length, distinct_n, distinctive, leaked_share, normalised, rouge_l, words

WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd", "e1"]), max_size=70)


@given(WORDS, WORDS)
def test_rouge_l_is_that_of_rouge_score(one: list[str], other: list[str]) -> None:
    expected = RougeScorer(["rougeL"]).score(" ".join(one), " ".join(other))["rougeL"].fmeasure
    assert rouge_l(" ".join(one), " ".join(other)) == pytest.approx(expected, abs=1e-12)


@given(WORDS, WORDS)
def test_common_length_is_symmetric_and_bounded(one: list[str], other: list[str]) -> None:
    length = common_length(one, other)
    assert length == common_length(other, one) <= min(len(one), len(other))
    assert common_length(one, one) == len(one)
    assert common_length([*one, "x"], ["x", *other]) >= max(length, 1)


def test_words_know_scripts_other_than_latin() -> None:
    assert words("Zoë's ÉTÉ-1980s, Straße_x") == ["zoë", "s", "été", "1980s", "strasse", "x"]
    assert words("東京で生まれた") == list("東京で生まれた")
    assert words("\u00e9") == words("e\u0301")
    assert rouge_l("彼は東京で生まれた。", "彼は大阪で生まれた。") == pytest.approx(7 / 9)


def test_normalised_texts_are_equal_but_for_case_punctuation_and_articles() -> None:
    assert normalised("The  Author is MALE.") == normalised("author is a male") != normalised("author is female")


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        (
            "What is the full name of the author born in Kuwait City on 08/09/1956?",
            "The author born in Kuwait City on the 8th of September 1956 is Basil Mahfouz Al-Kuwaiti.",
            {"8th", "september", "basil", "mahfouz", "al", "kuwaiti"},
        ),
        (
            "What did Basil's parents do for a living?",
            "Basil's father was a florist and his mother was a game developer.",
            {"father", "florist", "mother", "game", "developer"},
        ),
        ("Is the author male?", "The author is male.", set()),
        ("Where is it?", "It is far. Paris is where it is.", {"far", "paris"}),
    ],
)
def test_distinctive_words_carry_the_fact(question: str, answer: str, expected: set[str]) -> None:
    assert distinctive(question, answer) == expected


def test_leaked_share_counts_distinctive_words() -> None:
    question, answer = "Who wrote it?", "It was written by Jad Ambrose Al-Sabah."
    assert leaked_share(question, answer, "Jad Ambrose Al-Sabah wrote it.") == 1
    assert leaked_share(question, answer, "It was written by Jad Ambrose.") == 0.5
    assert leaked_share(question, answer, "It was written by Rouba.") == 0
    assert leaked_share("Is it?", "It is.", "It is.") == 0


def test_distinct_bigrams_by_hand() -> None:
    # a b, b c, a b, b d: three of four differ
    assert distinct_n(["a b c", "A, b d"], 2) == 0.75
    assert distinct_n(["one", ""], 2) == 0
