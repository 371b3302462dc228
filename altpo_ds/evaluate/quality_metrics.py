"""How answers read and whether they hold together, as pure functions of texts."""

from collections.abc import Sequence
from itertools import combinations

from altpo_ds.alternates.words import distinctive, leaked_share, ngrams, normalised, words

REPEATED = 4  # words of an n-gram whose repetition counts
SAME_FACT = 0.5  # overlap of distinctive words from which two answers agree
LEAK = 0.5  # share of the true answer's distinctive words from which an answer gives it away


def repetition(text: str, n: int = REPEATED) -> float:
    """Share of the text's n-grams of words that it said before (seq-rep-n, Welleck et al. 2020); 0 without any."""
    grams = ngrams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def agree(question: str, one: str, other: str) -> bool:
    """Whether two answers state the same: their distinctive words overlap by half (F1), or, where neither has any,
    they are the same words. An empty answer states nothing.
    """
    first, second = distinctive(question, one), distinctive(question, other)
    if not first and not second:
        return normalised(one) == normalised(other) != ""
    return 2 * len(first & second) >= SAME_FACT * (len(first) + len(second))


def consistency(question: str, answers: Sequence[str]) -> float:
    """Share of the pairs of two or more answers that agree."""
    pairs = list(combinations(answers, 2))
    return sum(agree(question, *pair) for pair in pairs) / len(pairs)


def leaks(question: str, answer: str, text: str) -> bool:
    """Whether the text gives away at least half of the true answer's distinctive words."""
    return leaked_share(question, answer, text) >= LEAK
