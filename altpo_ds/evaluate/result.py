"""What a suite hands back, and how the results of several become one evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from altpo_ds.evaluate.intervals import mean_interval
from altpo_ds.evaluate.ks import finite


@dataclass
class Result:
    """Metrics by name, with the reason of each None; what they are made of, row by row and split by split;
    95 % intervals; remarks on single metrics; curves over an attack's steps; and settings that the metrics depend on.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    per_example: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def mean(self, name: str, values: Sequence[float] | None, reason: str = "") -> None:
        """The mean of row values with its interval, or None for the reason. UserError for a value that is no number."""
        if not values:
            self.lack(name, reason)
            return
        self.metrics[name] = float(finite(values, name).mean())
        if len(values) > 1:
            self.intervals[name] = mean_interval(values)

    def lack(self, name: str, reason: str) -> None:
        """A metric that could not be computed."""
        self.metrics[name], self.reasons[name] = None, reason

    def columns(self, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds columns to the rows of a split, which every suite lists in the same order."""
        known = self.per_example.setdefault(split, [{} for _ in rows])
        for row, more in zip(known, rows, strict=True):
            row.update(more)

    def add(self, other: "Result") -> None:
        """Takes over what another suite found."""
        for mine, theirs in (
            (self.metrics, other.metrics),
            (self.reasons, other.reasons),
            (self.intervals, other.intervals),
            (self.notes, other.notes),
            (self.curves, other.curves),
            (self.settings, other.settings),
        ):
            mine.update(theirs)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for split, rows in other.per_example.items():
            self.columns(split, rows)

    def document(self) -> dict[str, Any]:
        """As evaluation.json holds it."""
        return asdict(self)
