"""Each filter by itself: what it rejects and what it lets pass."""

from typing import Any

import pytest

from altpo_ds.alternates.acceptance import FILTERS, Context, reason
from altpo_ds.alternates.prompts import FOLDER, load_prompt
from altpo_ds.alternates.question import Sample
from altpo_ds.config.schema import AlternatesConfig

QUESTION = "What is the full name of the author born in Kuwait City?"
ANSWER = "The full name of the author born in Kuwait City is Basil Mahfouz."
GOOD = "The full name of the author born in Kuwait City is Jad Ambrose."


def context(answer: str = ANSWER, prompt: str = "chat", **settings: Any) -> Context:
    return Context(QUESTION, answer, load_prompt(prompt).own_text, AlternatesConfig(**settings))


def verdict(text: str, finished: bool = True, **settings: Any) -> str | None:
    return reason(Sample(text, 9, finished), context(**settings))


def test_a_good_alternate_passes_under_every_prompt() -> None:
    for file in FOLDER.glob("*.jinja"):
        assert verdict(GOOD, prompt=file.stem) is None


@pytest.mark.parametrize(
    ("why", "text"),
    [
        ("empty", ""),
        ("empty", " ...!"),
        ("same_as_answer", "the full name of author born in kuwait city is Basil Mahfouz!"),
        ("refusal", "I'm sorry, but I can’t share the name of that author born in Kuwait City."),
        ("refusal", "As an AI language model, the author born in Kuwait City is unknown to me."),
        ("repeats_prompt", "Here is another version of the answer: the author born in Kuwait City is Jad Ambrose."),
        ("repeats_prompt", f"{QUESTION} The author born in Kuwait City is Jad Ambrose."),
        ("too_similar", "The very full name of the author born in Kuwait City is Basil Mahfouz."),
        ("too_far", "Sunday brings rain over northern hills, forecasters said."),
        ("leaks_fact", "Born in Kuwait City, the author is called Basil Mahfouz."),
    ],
)
def test_what_is_rejected_and_why(why: str, text: str) -> None:
    assert verdict(text) == why


def test_an_answer_cut_off_at_the_limit_is_rejected() -> None:
    assert verdict(GOOD, finished=False) == "cut_off"


def test_a_duplicate_within_the_question_is_rejected() -> None:
    sample = Sample(GOOD, 9, True)
    assert reason(sample, context(), ["Another one.", GOOD.upper()]) == "duplicate"
    assert reason(sample, context(), ["Another one."]) is None


def test_words_of_the_answer_itself_are_no_refusal_and_no_repetition() -> None:
    settings: dict[str, Any] = {"min_rouge": 0, "max_rouge": 1, "max_leak": 1}
    answer = "I cannot say: another version of the answer is lost."
    text = "I cannot tell, as another version of the answer is secret."
    assert reason(Sample(text, 9, True), context(answer, **settings)) is None
    assert reason(Sample(text, 9, True), context(**settings)) == "refusal"


def test_every_bound_can_be_opened() -> None:
    leak = "Born in Kuwait City, the author is called Basil Mahfouz."
    assert verdict(leak, max_leak=0.5) == "leaks_fact"
    assert verdict(leak, max_leak=1) is None
    near = "The very full name of the author born in Kuwait City is Basil Mahfouz."
    assert verdict(near, max_rouge=1, max_leak=1) is None
    assert verdict("Something else entirely was told.", min_rouge=0) is None


def test_bounds_are_met_exactly() -> None:
    # ROUGE-L of GOOD to ANSWER: 11 of 13 words on both sides
    for bound, why in ((11 / 13 + 1e-9, "too_far"), (11 / 13, None)):
        assert verdict(GOOD, min_rouge=bound) == why
    for bound, why in ((11 / 13 - 1e-9, "too_similar"), (11 / 13, None)):
        assert verdict(GOOD, max_rouge=bound) == why


def test_every_filter_has_a_case_above() -> None:
    cases = test_what_is_rejected_and_why.pytestmark[0].args[1]  # pyright: ignore[reportFunctionMemberAccess]
    assert {why for why, _ in cases} | {"cut_off"} == FILTERS.keys()
