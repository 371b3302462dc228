"""Texts as words, for comparing answers."""

import re
import unicodedata
from functools import cache
from pathlib import Path

# Scripts without spaces between words (Thai, Lao, kana, Han) count one character as a word.
UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


@cache
def function_words() -> frozenset[str]:
    """English words that carry no fact, and those that questions about people and books share."""
    return frozenset(Path(__file__).with_name("function_words.txt").read_text(encoding="utf-8").split())


def words(text: str) -> list[str]:
    """Words of a text in order, case and accents' composition aside."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalised(text: str) -> str:
    """What two texts share that differ only in case, punctuation, spaces and articles."""
    return " ".join(word for word in words(text) if word not in ("a", "an", "the"))


def common_length(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence; bit-parallel (Hyyrö 2004), a hundred times faster than the table."""
    masks: dict[str, int] = {}
    for place, word in enumerate(one):
        masks[word] = masks.get(word, 0) | 1 << place
    row = full = (1 << len(one)) - 1
    for word in other:
        matches = row & masks.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(one) - row.bit_count()


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F-measure over `words`, without stemming; symmetric, 0 where the texts have no word in common."""
    first, second = words(one), words(other)
    common = common_length(first, second)
    return 2 * common / (len(first) + len(second)) if common else 0.0


def distinctive(question: str, answer: str) -> frozenset[str]:
    """Words of an answer that carry its fact: not in the question and no function words.

    Names and numbers where there are any: a word with a digit, or with a capital that no sentence begins with.
    """
    asked = set(words(question))
    new = frozenset(word for word in words(answer) if word not in asked and word not in function_words())
    inner = re.sub(r"(^|[.!?]\s+)\S+", r"\1", unicodedata.normalize("NFKC", answer))
    capital = {word.casefold() for word in WORD.findall(inner) if word[0].isupper()}
    names = frozenset(word for word in new if word in capital or any(c.isdigit() for c in word))
    return names or new


def leaked_share(question: str, answer: str, text: str) -> float:
    """Share of the answer's distinctive words that a text gives away; 0 where the answer has none."""
    secret = distinctive(question, answer)
    return len(secret & set(words(text))) / len(secret) if secret else 0.0


def distinct_n(texts: list[str], n: int = 2) -> float:
    """Distinct n-grams of words over all of them, counted over the texts together; 0 without any."""
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def ngrams(sequence: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(sequence[i:] for i in range(n)), strict=False))
