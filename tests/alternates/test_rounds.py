"""Rounds of sampling over a backend without a model."""

from typing import Any

from altpo_ds.alternates.judge import judge_prompt
from altpo_ds.alternates.prompts import Prompt
from altpo_ds.alternates.question import Question
from altpo_ds.alternates.rounds import draw_once, sample_rounds
from altpo_ds.config.schema import AlternatesConfig
from altpo_ds.engine.distributed import World
from tests.alternates.conftest import TOWNS, StubBackend


def questions(count: int = 12) -> list[Question]:
    return [Question(i, f"Where was author {i} born?", f"Author {i} was born in Zell.") for i in range(count)]


def sampled(prompt: Prompt, **settings: Any) -> tuple[list[Question], StubBackend]:
    backend, asked = StubBackend(), questions()
    config = AlternatesConfig.model_validate({"count": 3} | settings)
    sample_rounds(asked, prompt, config, 0, backend, draw_once(backend))
    return asked, backend


def test_short_questions_are_asked_again_up_to_the_limit(world: World, prompt: Prompt) -> None:
    asked, backend = sampled(prompt, attempts=6)
    assert all(len(set(q.alternates)) == 3 for q in asked)
    assert all(any(town in text for town in TOWNS) for q in asked for text in q.alternates)
    assert {reason["reason"] for q in asked for reason in q.rejected} >= {"empty", "refusal", "cut_off"}
    assert all(q.drawn == len(q.samples) + len(q.rejected) for q in asked)
    again = [number for number, first in backend.asked if first > 0]
    assert set(again) == {q.number for q in asked if q.drawn > 3} != set()


def test_what_stays_short_is_not_padded(world: World, prompt: Prompt) -> None:
    asked, backend = sampled(prompt, attempts=1)
    assert {first for _, first in backend.asked} == {0}
    assert any(len(q.alternates) < 3 for q in asked)
    assert all(q.drawn == 3 for q in asked)


def test_surplus_is_told_apart_from_rejection(world: World, prompt: Prompt) -> None:
    asked, _ = sampled(prompt, attempts=6)
    surplus = [q for q in asked if any(item["reason"] == "surplus" for item in q.rejected)]
    assert surplus
    for q in surplus:  # only samples after the last accepted one
        assert min(i["sample"] for i in q.rejected if i["reason"] == "surplus") > max(q.samples)


def test_the_judge_keeps_the_best_of_the_candidates(world: World, prompt: Prompt) -> None:
    asked, backend = sampled(prompt, count=2, judge="self", candidates=4, attempts=8)
    plain, _ = sampled(prompt, count=4, attempts=8)
    for q, candidates in zip(asked, plain, strict=True):
        form = [judge_prompt(candidates, text, "chat") for text in candidates.alternates]
        best = sorted(sorted(range(4), key=lambda i: -backend.rate(form)[i])[:2])
        assert q.alternates == [candidates.alternates[i] for i in best]
        assert len(q.ratings) == 2


def test_the_judges_prompt_shows_all_three_texts() -> None:
    question = Question(0, "Who?", "Zoë & I.")
    for form, end in (("chat", "nothing else."), ("text", "Rating: ")):
        rendered = judge_prompt(question, "You <two>.", form)
        assert rendered.form == form
        assert rendered.text.endswith(end)
        for text in ("Who?", "Zoë & I.", "You <two>."):
            assert text in rendered.text


def test_samples_do_not_depend_on_the_other_questions(world: World, prompt: Prompt) -> None:
    asked, _ = sampled(prompt)
    backend, alone = StubBackend(), questions()[5:6]
    sample_rounds(alone, prompt, AlternatesConfig(count=3), 0, backend, draw_once(backend))
    assert alone == asked[5:6]
