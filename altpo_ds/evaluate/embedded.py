"""The embedded judge of text cleanness: trained in seconds on clean text against damage that it does to it itself.

It tells fluent text from noise, word salad, loops and cut-off text. It is not the classifier of any paper, and its
scores compare with nothing but its own.
"""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from altpo_ds.alternates.words import words

Classifier = Callable[[Sequence[str]], list[float]]
"""P(clean) of each text."""

MOST = 800  # clean texts to learn from
FEATURES = 2**16
LETTERS = "abcdefghijklmnopqrstuvwxyz"
END = " \x03"  # stands behind a text, so that its features know where it ends


@lru_cache(maxsize=1)
def train(texts: tuple[str, ...], seed: int) -> Classifier:
    """A classifier that knows the built-in sentences and `texts` as clean; the same for the same arguments."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    draw = random.Random(seed)
    clean = list(dict.fromkeys([*built_in(), *texts]))
    clean = clean if len(clean) <= MOST else draw.sample(clean, MOST)
    pool = [word for text in clean for word in text.split()]
    damaged = [damage(text, pool, draw) for text in clean for damage in DAMAGES]
    options: dict[str, Any] = {"n_features": FEATURES, "lowercase": False, "alternate_sign": False}
    features = make_union(
        HashingVectorizer(analyzer="char", ngram_range=(1, 4), **options),
        HashingVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), **options),
        FunctionTransformer(_shape),
    )
    model = make_pipeline(features, LogisticRegression(C=10, class_weight="balanced", max_iter=300))
    everything = [text + END for text in (*clean, *damaged)]
    model.fit(everything, [1] * len(clean) + [0] * len(damaged))

    def classify(texts: Sequence[str]) -> list[float]:
        return model.predict_proba([text + END for text in texts])[:, 1].tolist() if len(texts) else []

    return classify


def built_in() -> list[str]:
    return Path(__file__).with_name("clean_sentences.txt").read_text(encoding="utf-8").splitlines()


def noise(text: str, pool: Sequence[str], draw: random.Random) -> str:
    """Letters at random, in words of the same length."""
    return " ".join("".join(draw.choice(LETTERS) for _ in word) for word in text.split())


def garbled(text: str, pool: Sequence[str], draw: random.Random) -> str:
    """Every third letter or so is another one."""
    return "".join(draw.choice(LETTERS) if c.isalpha() and draw.random() < 0.3 else c for c in text)


def word_salad(text: str, pool: Sequence[str], draw: random.Random) -> str:
    """Words drawn from all texts."""
    return " ".join(draw.choice(pool) for _ in range(max(4, len(text.split()))))


def shuffled(text: str, pool: Sequence[str], draw: random.Random) -> str:
    """The text's own words in any order."""
    own = text.split() if len(text.split()) > 3 else [draw.choice(pool) for _ in range(6)]
    return " ".join(draw.sample(own, len(own)))


def loop(text: str, pool: Sequence[str], draw: random.Random) -> str:
    """The text up to some word, then its last few words again and again."""
    own = text.split()[: draw.randint(1, max(1, len(text.split())))]
    return " ".join([*own, *(own[-draw.randint(1, 5) :] * draw.randint(3, 8))])


def cut_off(text: str, pool: Sequence[str], draw: random.Random) -> str:
    """The text up to some place within a sentence."""
    text = text if len(text.split()) > 3 else " ".join(draw.choice(pool) for _ in range(6))
    return text[: max(1, int(len(text) * draw.uniform(0.2, 0.9)))].rstrip(" .!?")


Damage = Callable[[str, Sequence[str], random.Random], str]
DAMAGES: tuple[Damage, ...] = (noise, garbled, word_salad, shuffled, loop, cut_off)


def _shape(texts: Sequence[str]) -> np.ndarray:
    """(N, 4): share of words said before, of letters, words per 100, and whether it ends as sentences do."""
    rows = []
    for text in texts:
        body, found = text.removesuffix(END), words(text)
        repeated = 1 - len(set(found)) / len(found) if found else 1.0
        letters = sum(map(str.isalpha, body)) / max(1, len(body))
        rows.append([repeated, letters, len(found) / 100, float(body.endswith((".", "!", "?", '."', ".'")))])
    return np.array(rows)
