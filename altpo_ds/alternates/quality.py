"""How good alternates are: diversity, leaks, likelihood; sums that ranks and parts add up, in bounded memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from rich.table import Table

from altpo_ds.alternates.acceptance import Context, reason
from altpo_ds.alternates.question import Sample
from altpo_ds.alternates.words import distinct_n, leaked_share, rouge_l, words
from altpo_ds.config.schema import AlternatesConfig


@dataclass
class Quality:
    """Sums over questions and alternates; `measures` divides."""

    counts: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)  # by the filters, alternates of this file

    def add(
        self,
        question: str,
        answer: str,
        alternates: Sequence[str],
        log_probs: Sequence[float] | None,
        settings: AlternatesConfig,
    ) -> None:
        """One question's alternates; log_probs are means per token under the model."""
        self.counts["questions"] += 1
        pairs = [rouge_l(one, other) for one, other in combinations(alternates, 2)]
        if pairs:
            self._mean("pairwise_rouge_l", sum(pairs) / len(pairs))
            self._mean("distinct_2", distinct_n(list(alternates), 2))
        context = Context(question, answer, "", settings)
        for number, text in enumerate(alternates):
            self.counts["alternates"] += 1
            self._mean("leak_rate", leaked_share(question, answer, text) > settings.max_leak)
            self._mean("rouge_l_to_answer", rouge_l(answer, text))
            self._mean("words", len(words(text)))
            if why := reason(Sample(text, 0, True), context, alternates[:number]):
                self.rejected[why] += 1
        for value in log_probs or ():
            self._mean("log_prob", value)

    def _mean(self, name: str, value: float) -> None:
        self.counts[name] += 1
        self.sums[name] += value  # pyright: ignore[reportArgumentType]

    def merge(self, other: "Quality") -> None:
        self.counts.update(other.counts)
        self.sums.update(other.sums)
        self.rejected.update(other.rejected)

    def measures(self) -> dict[str, float | None]:
        """Means by name; None where nothing was measured. `accepted` is the filters' verdict on this file."""
        alternates = self.counts["alternates"]
        means = {name: self.sums[name] / self.counts[name] if self.counts[name] else None for name in LABELS}
        accepted = 1 - self.rejected.total() / alternates if alternates else None
        return means | {"questions": self.counts["questions"], "alternates": alternates, "accepted": accepted}


LABELS = {
    "questions": "questions",
    "alternates": "alternates",
    "accepted": "acceptable, of those",
    "pairwise_rouge_l": "ROUGE-L between a question's alternates ↓",
    "distinct_2": "distinct-2 within a question ↑",
    "leak_rate": "leak rate ↓",
    "rouge_l_to_answer": "ROUGE-L to the answer",
    "words": "words of an alternate",
    "log_prob": "log-probability per token ↑",
}


def quality_table(columns: Mapping[str, tuple[Mapping[str, Any], Mapping[str, int]]], title: str) -> Table:
    """Measures and counts by reason, one column for each file: name to (measures, rejected)."""
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for name, label in LABELS.items():
        table.add_row(label, *(_number(measures.get(name)) for measures, _ in columns.values()))
    table.add_section()
    for why in dict.fromkeys(why for _, rejected in columns.values() for why in rejected):
        table.add_row(f"rejected: {why}", *(str(rejected.get(why, 0)) for _, rejected in columns.values()))
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
