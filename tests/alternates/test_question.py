"""From raw texts to alternates, sample by sample."""

from altpo_ds.alternates.prompts import Rendered
from altpo_ds.alternates.question import Question, Sample, sample

PROMPT = Rendered("text", "chat", (), None)


def test_a_text_ends_before_the_first_stop_text() -> None:
    stop = ("Question:", "Q:")
    assert sample(" An answer. Q: more Question: x", 9, False, stop) == Sample("An answer.", 9, True)
    assert sample("Question: again", 9, True, stop) == Sample("", 9, True)
    assert sample("An answer, cut", 9, False, stop) == Sample("An answer, cut", 9, False)


def test_what_no_file_can_hold_is_taken_out() -> None:
    assert sample("a\ud800b\0c", 3, True, ()).text == "a?bc"


def test_later_rounds_ask_for_twice_what_is_missing_with_new_seeds() -> None:
    question = Question(7, "q", "a")
    first = question.request(PROMPT, 5, seed=0)
    assert (first.number, first.first, len(set(first.seeds))) == (7, 0, 5)
    for reason in (None, "empty", None, "too_far", None):
        question.take(Sample("text", 4, True), reason)
    second = question.request(PROMPT, 5, seed=0)
    assert (second.first, len(second.seeds)) == (5, 4)
    assert not set(first.seeds) & set(second.seeds)
    assert first == Question(7, "q", "a").request(PROMPT, 5, seed=0)
    assert first.seeds != Question(7, "q", "a").request(PROMPT, 5, seed=1).seeds
    assert question.samples == [0, 2, 4]
    assert question.rejected == [{"sample": 1, "reason": "empty"}, {"sample": 3, "reason": "too_far"}]
    assert (question.drawn, question.tokens) == (5, 20)


def test_the_best_stay_in_the_order_drawn() -> None:
    question = Question(0, "q", "a")
    for number, text in enumerate("abcde"):
        question.take(Sample(text, 1, True), "empty" if number == 1 else None)
    question.keep_best([2.0, 5.5, 2.0, 7.0], 3, "outranked")
    assert question.alternates == ["a", "c", "e"]
    assert (question.samples, question.ratings) == ([0, 2, 4], [2.0, 5.5, 7.0])
    assert question.rejected == [{"sample": 1, "reason": "empty"}, {"sample": 3, "reason": "outranked"}]
