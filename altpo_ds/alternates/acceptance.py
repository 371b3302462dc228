"""What an alternate must be: small pure filters, each with a reason code for what it rejects."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from altpo_ds.alternates.question import Sample
from altpo_ds.alternates.words import leaked_share, ngrams, normalised, rouge_l, words
from altpo_ds.config.schema import AlternatesConfig

REPEATED_RUN = 5  # words in a row of the prompt's own text
OPENING = 200  # characters in which a refusal shows itself


@dataclass(frozen=True)
class Context:
    """What the filters compare a sample with; `instruction` is the prompt's text without question and answer."""

    question: str
    answer: str
    instruction: str
    config: AlternatesConfig


def empty(sample: Sample, context: Context) -> bool:
    return not words(sample.text)


def cut_off(sample: Sample, context: Context) -> bool:
    return not sample.finished


def same_as_answer(sample: Sample, context: Context) -> bool:
    return normalised(sample.text) == normalised(context.answer)


@cache
def _refusals() -> tuple[str, ...]:
    return tuple(Path(__file__).with_name("refusals.txt").read_text(encoding="utf-8").split("\n")[:-1])


def refusal(sample: Sample, context: Context) -> bool:
    """A refusal's phrase at the beginning; one that the original answer has as well is no refusal."""
    opening = sample.text[:OPENING].casefold().replace("’", "'")
    answer = context.answer.casefold().replace("’", "'")
    return any(phrase in opening and phrase not in answer for phrase in _refusals())


def repeats_prompt(sample: Sample, context: Context) -> bool:
    """Five words in a row of the instruction that the answer lacks, or the whole question again."""
    runs = set(ngrams(words(sample.text), REPEATED_RUN))
    told = _instruction_runs(context.instruction) - set(ngrams(words(context.answer), REPEATED_RUN))
    return bool(runs & told) or normalised(context.question) in normalised(sample.text)


@cache
def _instruction_runs(instruction: str) -> frozenset[tuple[str, ...]]:
    return frozenset(ngrams(words(instruction), REPEATED_RUN))


def too_similar(sample: Sample, context: Context) -> bool:
    return rouge_l(context.answer, sample.text) > context.config.max_rouge


def too_far(sample: Sample, context: Context) -> bool:
    return rouge_l(context.answer, sample.text) < context.config.min_rouge


def leaks_fact(sample: Sample, context: Context) -> bool:
    return leaked_share(context.question, context.answer, sample.text) > context.config.max_leak


Filter = Callable[[Sample, Context], bool]

FILTERS: dict[str, Filter] = {
    "empty": empty,
    "cut_off": cut_off,
    "same_as_answer": same_as_answer,
    "refusal": refusal,
    "repeats_prompt": repeats_prompt,
    "too_similar": too_similar,
    "too_far": too_far,
    "leaks_fact": leaks_fact,
}
DUPLICATE = "duplicate"
SURPLUS = "surplus"  # acceptable, but there were enough already
OUTRANKED = "outranked"  # acceptable, but the judge preferred others


def reason(sample: Sample, context: Context, accepted: Iterable[str] = ()) -> str | None:
    """Why a sample is rejected, None where it is not. `accepted` holds the question's alternates so far."""
    for name, rejects in FILTERS.items():
        if rejects(sample, context):
            return name
    text = normalised(sample.text)
    return DUPLICATE if any(text == normalised(other) for other in accepted) else None
