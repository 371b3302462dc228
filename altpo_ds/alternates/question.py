"""A question on its way to its alternates: what is asked of a backend, what it gave, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from altpo_ds.alternates.prompts import Rendered
from altpo_ds.data.stream import draw_seed


@dataclass(frozen=True)
class Sample:
    """One drawn answer. `finished`: the model ended it, not the token limit."""

    text: str
    tokens: int
    finished: bool


def sample(text: str, tokens: int, ended: bool, stop: Sequence[str]) -> Sample:
    """A sample from a raw text: cut before a stop text, which ends it too, and without what no file can hold."""
    ends = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    text = text[: min(ends)] if ends else text
    clean = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()
    return Sample(clean, tokens, ended or bool(ends))


@dataclass(frozen=True)
class Request:
    """Samples wanted of a question: numbers `first`, `first` + 1, ..., one for each seed."""

    number: int
    first: int
    prompt: Rendered
    seeds: tuple[int | None, ...]  # None: the most likely answer, greedily


@dataclass
class Question:
    """A question with the alternates accepted so far, and what became of every sample."""

    number: int
    question: str
    answer: str
    alternates: list[str] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)  # sample number of each alternate
    ratings: list[float] = field(default_factory=list)  # the judge's, where there is one
    rejected: list[dict[str, Any]] = field(default_factory=list)
    drawn: int = 0
    tokens: int = 0

    def request(self, prompt: Rendered, wanted: int, seed: int) -> Request:
        """As many samples as are missing, twice over: some will be rejected."""
        missing = wanted - len(self.alternates)
        count = wanted if self.drawn == 0 else min(wanted, 2 * missing)
        numbers = range(self.drawn, self.drawn + count)
        seeds = tuple(draw_seed(seed, "alternate", self.number, number) for number in numbers)
        return Request(self.number, self.drawn, prompt, seeds)

    def take(self, drawn: Sample, reason: str | None) -> None:
        """Adds the next sample to the alternates, or to the rejected ones with the reason."""
        if reason is None:
            self.alternates.append(drawn.text)
            self.samples.append(self.drawn)
        else:
            self.rejected.append({"sample": self.drawn, "reason": reason})
        self.drawn += 1
        self.tokens += drawn.tokens

    def keep_best(self, ratings: Sequence[float], count: int, reason: str) -> None:
        """Of the alternates the `count` with the highest rating, in the order drawn; earlier ones win ties."""
        best = sorted(sorted(range(len(ratings)), key=lambda i: -ratings[i])[:count])
        self.rejected += [
            {"sample": number, "reason": reason} for i, number in enumerate(self.samples) if i not in best
        ]
        self.rejected.sort(key=lambda item: item["sample"])
        self.ratings = [round(ratings[i], 3) for i in best]
        self.samples = [self.samples[i] for i in best]
        self.alternates = [self.alternates[i] for i in best]
